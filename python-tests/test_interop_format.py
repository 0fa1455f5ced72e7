"""The LTX format both ways with the real litestream: block and frame records, every level, VACUUM, page sizes."""

import json
import os
import signal
import sqlite3

import pytest

import harness
from databases import rows

# These write a page as an LZ4 frame; from 0.5.16 on it is a block.
FRAME_VERSIONS = ["0.5.9", "0.5.14"]


@pytest.fixture(scope="session")
def cli():
    """Path of the command-line program, which `make program` has built."""
    return harness.CLI


def transactions(page_size):
    """Transactions that grow, shrink and rewrite the database; each a statement and its rows."""
    insert = "insert into t(body) values (?)"
    yield "create table t(id integer primary key, body blob)", [()]
    for step in range(4):
        yield insert, [(os.urandom(900),) for _ in range(40 + 60 * step)]
        yield "update t set body = zeroblob(700) where id % 7 = ?", [(step,)]
    yield "delete from t where id > 150", [()]
    yield "vacuum", [()]
    yield "create index i on t(body)", [()]
    yield insert, [(os.urandom(300).hex(),) for _ in range(200)]
    yield "drop index i", [()]
    yield "delete from t where id > 20", [()]
    yield "pragma incremental_vacuum", [()]
    yield insert, [(os.urandom(3 * page_size),)]


def write(database, replica, page_size):
    """Runs the transactions in WAL mode; after each, waits until the replica has one more level-0 file."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute(f"pragma page_size = {page_size}")
    connection.execute("pragma auto_vacuum = incremental")
    connection.execute("pragma journal_mode = wal")
    level = replica / "ltx" / "0"
    for statement, rows in transactions(page_size):
        before = len(list(level.glob("*.ltx")))
        plain = statement in ("vacuum", "pragma incremental_vacuum")
        if not plain:
            connection.execute("begin immediate")
        for row in rows:
            connection.execute(statement, row).fetchall()
        if not plain:
            connection.execute("commit")
        harness.wait_for(lambda: len(list(level.glob("*.ltx"))) > before, f"a file after {statement!r}")
    return connection


def replicated(program, folder, page_size):
    """A database that `program` replicated, and the replica, at rest."""
    database, replica = folder / "app.db", folder / "replica"
    config = harness.litestream_config(folder / "litestream.yml", database, {"type": "file", "path": str(replica)})
    sqlite3.connect(database).close()
    with harness.Process([program, "replicate", "-config", config]) as process:
        connection = write(database, replica, page_size)
        harness.wait_for(lambda: list((replica / "ltx" / "2").glob("*.ltx")), "a merged file of level 2")
        process.child.send_signal(signal.SIGTERM)
        process.child.wait(60)
    connection.close()
    return database, replica


def listed(cli, replica, key):
    """The values of one column of the listing, each once, sorted."""
    files = json.loads(harness.run([cli, "list", "--json", f"file://{replica}"]))
    return sorted({file[key] for file in files})


def compare(cli, litestream, replica, folder):
    """Restores every txid, and the newest state, with both programs: the same bytes."""
    ours, theirs = folder / "ours.db", folder / "theirs.db"
    url = f"file://{replica}"
    found = listed(cli, replica, "max_txid")
    for txid in [*found, None]:
        ours.unlink(missing_ok=True)
        theirs.unlink(missing_ok=True)
        restored = json.loads(
            harness.run([cli, "restore", "--json", *(["--txid", txid] if txid else []), url, ours])
        )
        assert restored["txid"] == (txid or found[-1])
        harness.run([litestream, "restore", *(["-txid", f"{txid:016x}"] if txid else []), "-o", theirs, url])
        assert ours.read_bytes() == theirs.read_bytes(), f"txid {txid}"


def page_flags(replica):
    """The flags of the first page record of every file: 0 for a frame, 1 for a block."""
    return {file.read_bytes()[104:106] for file in replica.glob("ltx/*/*.ltx")}


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_restores_what_litestream_wrote(cli, litestream, tmp_path, page_size):
    database, replica = replicated(litestream, tmp_path, page_size)
    assert page_flags(replica) == {b"\0\1"}
    assert listed(cli, replica, "level") == [0, 1, 2, 9]
    assert listed(cli, replica, "proof") == ["no"]
    compare(cli, litestream, replica, tmp_path)
    assert rows(tmp_path / "ours.db") == rows(database)


@pytest.mark.parametrize("version", FRAME_VERSIONS)
def test_restores_frame_records_of_older_litestream(cli, litestream, tmp_path, version):
    database, replica = replicated(harness.older_litestream(version), tmp_path, 4096)
    assert page_flags(replica) == {b"\0\0"}
    compare(cli, litestream, replica, tmp_path)
    assert rows(tmp_path / "ours.db") == rows(database)


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_litestream_restores_what_we_encode(cli, litestream, tmp_path, page_size):
    database, replica = replicated(litestream, tmp_path, page_size)
    anew = tmp_path / "anew"
    environment = harness.clean_environment(INTEROP_SOURCE=f"file://{replica}", INTEROP_TARGET=f"file://{anew}")
    name = "upkeep::merge::tests::encodes_a_replica_anew_for_a_peer"
    test = ["cargo", "test", "--quiet", "--lib", "--", "--exact", "--ignored", name]
    assert "1 passed" in harness.run(test, timeout=1200, cwd=harness.ROOT, env=environment)
    assert listed(cli, anew, "level") == [0, 9]
    assert listed(cli, anew, "proof") == ["yes"]
    compare(cli, litestream, anew, tmp_path)
    assert rows(tmp_path / "ours.db") == rows(database)
    with_level_0_only = tmp_path / "level0"
    (with_level_0_only / "ltx").mkdir(parents=True)
    (anew / "ltx" / "0").rename(with_level_0_only / "ltx" / "0")
    compare(cli, litestream, with_level_0_only, tmp_path)
    assert rows(tmp_path / "ours.db") == rows(database)
