"""`replica_durability=commit`: a COMMIT that returned is in the replica, and one that could not get there says so."""

import os
import sqlite3
import threading

import harness
import pytest
import s3_servers
from s3_proxy import Proxy

NOT_ACKNOWLEDGED = 51210


@pytest.fixture(scope="module")
def weed(tmp_path_factory):
    started = s3_servers.weed(tmp_path_factory.mktemp("weed"))
    yield started
    started.stop()


@pytest.fixture
def loaded(extension):
    """This process has the library; SQL functions are on the connection."""
    c = sqlite3.connect(":memory:")
    c.enable_load_extension(True)
    c.load_extension(str(extension.with_suffix("")))
    return c


_connections = []


@pytest.fixture(autouse=True)
def closed():
    """What a test leaves open is closed with it: other tests of this process count what is open."""
    yield
    while _connections:
        _connections.pop().close()


def opened(uri, **options):
    _connections.append(sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, **options))
    return _connections[-1]


def connect(path, replica, timeout=30, **settings):
    more = "".join(f"&replica_{name}={value}" for name, value in settings.items())
    uri = f"file:{path}?vfs=replvfs&replica={replica}&replica_durability=commit{more}"
    return opened(uri, timeout=timeout)


def rows_in(loaded, url, path):
    """What a restore gives at this very moment."""
    loaded.execute("SELECT replica_restore(?, ?)", (url, str(path)))
    c = sqlite3.connect(path)
    rows = [x for (x,) in c.execute("SELECT x FROM t ORDER BY rowid")]
    c.close()
    os.remove(path)
    return rows


MODES = [(journal, locking) for journal in ("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY") for locking in ("NORMAL", "EXCLUSIVE")]


@pytest.mark.parametrize("journal,locking", MODES)
def test_each_commit_that_returned_is_in_the_replica(loaded, tmp_path, replica, journal, locking):
    c = connect(tmp_path / "app.db", f"file://{replica}")
    c.execute(f"PRAGMA locking_mode={locking}")
    c.execute(f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(x)")
    for n in range(12):
        if n % 3:
            c.execute("INSERT INTO t VALUES (?)", (n,))
        else:
            c.execute("BEGIN")
            c.execute("INSERT INTO t VALUES (?)", (n,))
            c.execute("COMMIT")
        assert rows_in(loaded, f"file://{replica}", tmp_path / "r.db") == list(range(n + 1))
    c.close()


def test_two_connections_of_a_rollback_mode_take_turns(loaded, tmp_path, replica):
    url = f"file://{replica}"
    first, second = connect(tmp_path / "app.db", url), connect(tmp_path / "app.db", url)
    first.execute("CREATE TABLE t(x)")
    for n in range(20):
        (first if n % 2 else second).execute("INSERT INTO t VALUES (?)", (n,))
        assert rows_in(loaded, url, tmp_path / "r.db") == list(range(n + 1))


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_commit_that_the_store_does_not_take_says_so_and_is_sent_later(loaded, weed, tmp_path, journal, monkeypatch):
    for name, value in weed.environment().items():
        monkeypatch.setenv(name, value)
    away = threading.Event()
    with Proxy(weed, plan=lambda request: "reset" if away.is_set() else None) as proxy:
        url = proxy.url(f"late-{journal}")
        # A process that was started with the keys in its environment.
        script = """
import sqlite3, sys
extension, uri, journal = sys.argv[1:]
c = sqlite3.connect(":memory:"); c.enable_load_extension(True); c.load_extension(extension)
c = sqlite3.connect(uri, uri=True, isolation_level=None)
c.execute(f"PRAGMA journal_mode={journal}")
c.execute("CREATE TABLE t(x)")
for line in sys.stdin:
    try:
        c.execute(line)
        print("done", flush=True)
    except sqlite3.Error as error:
        print(error.sqlite_errorcode, error, "|", c.execute("SELECT replica_error()").fetchone()[0], flush=True)
print(c.execute("SELECT count(*) FROM t").fetchone()[0], c.in_transaction)
"""
        uri = (
            f"file:{tmp_path}/app.db?vfs=replvfs&replica=s3://bkt/late-{journal}&replica_endpoint={proxy.endpoint}"
            f"&replica_region={s3_servers.REGION}&replica_durability=commit&replica_sync_timeout=300ms"
        )
        with harness.Process(script, harness.EXTENSION.with_suffix(""), uri, journal, env=weed.environment()) as writer:
            writer.tell("INSERT INTO t VALUES (0)")
            assert writer.line() == "done"
            away.set()
            writer.tell("INSERT INTO t VALUES (1)")
            answer = writer.line()
            assert answer.startswith(f"{NOT_ACKNOWLEDGED} disk I/O error | "), answer
            assert f"a commit to {tmp_path}/app.db is durable in the local file, but s3://bkt/late-{journal}" in answer
            assert "within 300 ms: cannot " in answer and "it is sent in the background" in answer
            assert s3_servers.SECRET not in answer
            away.clear()
            writer.tell("INSERT INTO t VALUES (2)")
            harness.wait_for(lambda: writer.line() == "done" or writer.tell("INSERT INTO t VALUES (2)"), "the store back")
            code, printed = cli_restore(weed, url, tmp_path / "r.db")
            assert code == 0, printed
            rows = [x for (x,) in sqlite3.connect(tmp_path / "r.db").execute("SELECT x FROM t")]
            assert rows[:3] == [0, 1, 2] and set(rows[3:]) <= {2}
            last = writer.finish()[-1]
            assert last == f"{len(rows)} False"


def cli_restore(server, url, path):
    import subprocess

    done = subprocess.run(
        [harness.CLI, "restore", url, path], capture_output=True, text=True, timeout=60, env=server.environment()
    )
    return done.returncode, done.stdout + done.stderr


def test_many_writers_share_uploads_and_the_wal_starts_over(loaded, tmp_path, replica):
    """Rows of 20 KB, so that the WAL is long soon; plain SQLite lets it grow to 50 MB here."""
    url, database = f"file://{replica}", tmp_path / "app.db"
    c = connect(database, url)
    c.execute("PRAGMA journal_mode=WAL")
    c.execute("CREATE TABLE t(x, y)")
    many, each = 8, 2000 if os.environ.get("LONG") == "1" else 300

    def write(number):
        own = connect(database, url)
        own.execute("PRAGMA synchronous=NORMAL")
        for n in range(each):
            own.execute("INSERT INTO t VALUES (?, randomblob(20000))", (number * each + n,))
        own.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(many)]
    [thread.start() for thread in threads]
    longest = 0
    while any(thread.is_alive() for thread in threads):
        longest = max(longest, os.path.getsize(f"{database}-wal"))
        threads[0].join(0.02)
        [thread.join(0) for thread in threads]
    (txid,) = c.execute("SELECT replica_txid()").fetchone()
    assert txid < many * each, "nobody shared an upload"
    assert longest < many * each * 20000, "the WAL never started over"
    assert sorted(rows_in(loaded, url, tmp_path / "r.db")) == list(range(many * each))
    c.close()


def test_statement_that_reads_on_over_a_commit_keeps_its_snapshot(loaded, tmp_path, replica):
    """The commit waits with its read mark, because a SELECT of the same connection still reads under it."""
    url, database = f"file://{replica}", tmp_path / "app.db"
    reader, other = connect(database, url), connect(database, url, timeout=0.1)
    reader.execute("PRAGMA journal_mode=WAL")
    reader.execute("PRAGMA cache_size=5")
    reader.execute("CREATE TABLE t(x, y)")
    other.execute("PRAGMA wal_autocheckpoint=0")
    other.execute("WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) INSERT INTO t SELECT i, hex(randomblob(1000)) FROM n")
    assert os.path.getsize(f"{database}-wal") > 4 << 20
    rows = reader.execute("SELECT x, y FROM t ORDER BY rowid")
    seen = [rows.fetchone() for _ in range(10)]
    reader.execute("CREATE TABLE own(z)")
    before = other.execute("SELECT x, y FROM t ORDER BY rowid").fetchall()
    other.execute("UPDATE t SET y = ''")
    (busy, *_) = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 1, "the WAL started over under a reader"
    assert seen + rows.fetchall() == before
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def test_shared_cache_keeps_its_snapshot_too(loaded, tmp_path, replica):
    url, database = f"file://{replica}", tmp_path / "app.db"
    uri = f"file:{database}?vfs=replvfs&cache=shared&replica={url}&replica_durability=commit"
    one, two = opened(uri), opened(uri)
    other = connect(database, url, timeout=0.1)
    one.execute("PRAGMA journal_mode=WAL")
    one.execute("PRAGMA cache_size=5")
    one.execute("CREATE TABLE t(x, y)")
    one.execute("CREATE TABLE own(z)")
    other.execute("PRAGMA wal_autocheckpoint=0")
    other.execute("WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) INSERT INTO t SELECT i, hex(randomblob(1000)) FROM n")
    rows = two.execute("SELECT x, y FROM t ORDER BY rowid")
    seen = [rows.fetchone() for _ in range(10)]
    one.execute("INSERT INTO own VALUES (1)")
    before = other.execute("SELECT x, y FROM t ORDER BY rowid").fetchall()
    other.execute("UPDATE t SET y = ''")
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 1
    assert seen + rows.fetchall() == before


def test_an_empty_transaction_waits_for_nobody(loaded, tmp_path, replica):
    c = connect(tmp_path / "app.db", f"file://{replica}", sync_timeout="0")
    with pytest.raises(sqlite3.OperationalError) as raised:
        c.execute("CREATE TABLE t(x)")
    assert raised.value.sqlite_errorcode == NOT_ACKNOWLEDGED
    c.execute("SELECT replica_sync(10)")
    c.execute("BEGIN IMMEDIATE")
    c.execute("COMMIT")
    c.execute("SELECT * FROM t")


WRITER = """
import sqlite3, sys
extension, uri, first, count = sys.argv[1:]
loader = sqlite3.connect(":memory:"); loader.enable_load_extension(True); loader.load_extension(extension)
c = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=60)
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(first), int(first) + int(count)):
    c.execute("INSERT INTO t VALUES (?)", (n,))
    print(n, flush=True)
"""


@pytest.mark.parametrize("victim", [None, 0, 1])
def test_processes_share_groups_and_one_that_dies_holds_up_nobody(loaded, process, tmp_path, replica, victim):
    url, count = f"file://{replica}", 60
    c = connect(tmp_path / "app.db", url)
    c.execute("PRAGMA journal_mode=WAL")
    c.execute("CREATE TABLE t(x)")
    uri = f"file:{tmp_path}/app.db?vfs=replvfs&replica={url}&replica_durability=commit"
    writers = [
        process(WRITER, harness.EXTENSION.with_suffix(""), uri, number * 1000, count) for number in range(3)
    ]
    for writer in writers:
        assert writer.line() == "ready"
    for writer in writers:
        writer.tell("go")
    acknowledged = []
    if victim is not None:
        for _ in range(10):
            acknowledged.append(int(writers[victim].line()))
        writers[victim].kill()
    for writer in writers:
        while (line := writer.line()) is not None:
            acknowledged.append(int(line))
    assert len(acknowledged) >= count * (3 if victim is None else 2)
    rows = rows_in(loaded, url, tmp_path / "r.db")
    assert set(acknowledged) <= set(rows) and len(rows) == len(set(rows))
