"""Databases under replication, as the tests open, compare and restore them. In this process, with Debian's SQLite."""

import functools
import itertools
import sqlite3
import urllib.parse

import harness


@functools.cache
def load():
    """Loads the extension into this process, where it stays."""
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(str(harness.EXTENSION))
    loader.close()


def url(replica):
    """Of a folder, or of a bucket (s3_servers.Bucket); or the URL itself."""
    named = str(getattr(replica, "url", replica))
    return named if "://" in named else f"file://{named}"


def settings_of(replica):
    """The same as a replica of litestream's configuration."""
    if not hasattr(replica, "files"):
        return {"type": "file", "path": str(replica)}
    place = {"type": "s3", "bucket": "bkt", "path": replica.prefix, "endpoint": replica.server.endpoint}
    return {**place, "region": "us-east-1", "force-path-style": True}


def uri(database, replica=None, **parameters):
    """The URI that opens `database` through replvfs; of a parameter `None` leaves it out."""
    given = {"vfs": "replvfs", "replica": replica and url(replica), **parameters}
    listed = "&".join(f"{k}={urllib.parse.quote(str(v))}" for k, v in given.items() if v is not None)
    return f"file:{urllib.parse.quote(str(database))}?{listed}"


def connect(database, replica=None, **parameters):
    load()
    return sqlite3.connect(uri(database, replica, **parameters), uri=True, isolation_level=None, timeout=20)


def plain(database):
    """A connection that knows nothing of the extension."""
    return sqlite3.connect(database, isolation_level=None, timeout=20)


def one(connection, sql, *arguments):
    """The only value of the only row."""
    ((value,),) = connection.execute(sql, arguments).fetchall()
    return value


def rows(database):
    """What the whole table `t` holds."""
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        return connection.execute("select * from t order by id").fetchall()
    finally:
        connection.close()


def sync(connection, timeout=60):
    return one(connection, "SELECT replica_sync(?)", timeout)


def status(connection, schema="main", replica=None):
    """The row of `replica_status` as a dictionary; of the home replica unless another is named; None: no row."""
    cursor = connection.execute("SELECT * FROM replica_status WHERE schema = ?", (schema,))
    names = [column[0] for column in cursor.description]
    rows = [dict(zip(names, row)) for row in cursor]
    rows = [row for row in rows if row["replica"] == url(replica)] if replica else rows[:1]
    return rows[0] if rows else None


def restore(replica, copy, options=None):
    """Restores by the SQL function and returns the txid."""
    load()
    connection = sqlite3.connect(":memory:")
    try:
        return one(connection, "SELECT replica_restore(?, ?, ?)", url(replica), str(copy), options)
    finally:
        connection.close()


def files(replica, level=0):
    """The LTX files of one level, by name."""
    if hasattr(replica, "files"):
        return replica.files(level)
    return sorted((replica / "ltx" / str(level)).glob("*.ltx"))


_names = itertools.count()


# Of page 1: what SQLite sets when a database that is open is overwritten.
SET_BY_SQLITE = [(18, 20), (24, 32), (40, 44), (92, 100)]


def content(database, overwritten=False):
    """The bytes of a database, without those that SQLite set if it was overwritten while it was open."""
    data = bytearray(database.read_bytes())
    for start, end in SET_BY_SQLITE if overwritten else []:
        data[start:end] = bytes(end - start)
    return bytes(data)


def assert_equal(replica, database, options=None, overwritten=False):
    """The replica restores to the bytes of `database`, which nobody has open; returns the txid."""
    assert not database.with_name(database.name + "-wal").exists(), "compare it when it is closed"
    copy = database.with_name(f"copy-{next(_names)}.db")
    txid = restore(replica, copy, options)
    assert content(copy, overwritten) == content(database, overwritten), f"txid {txid} differs from {database}"
    connection = plain(copy)
    assert one(connection, "PRAGMA integrity_check") == "ok"
    connection.close()
    return txid
