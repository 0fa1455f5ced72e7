"""Several replicas of one database, several databases of one connection, and where the settings come from."""

import json
import os
import shutil
import sqlite3
import statistics
import time

import pytest

import databases
import harness
from databases import assert_equal, connect, one, status, sync


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


def write(c, rows=1):
    c.execute("WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<?) INSERT INTO t SELECT randomblob(700) FROM n", (rows,))


def caught_up(c, copy):
    row = status(c, replica=copy)
    return row["acknowledged_txid"] is not None and row["acknowledged_txid"] == row["txid"]


def test_copies_hold_the_same_files(database, replica, tmp_path):
    copies = [tmp_path / "copy2", tmp_path / "copy3"]
    c = connect(database, replica, replica2=databases.url(copies[0]), replica3=databases.url(copies[1]))
    c.execute("CREATE TABLE t(x)")
    for _ in range(3):
        write(c)
        sync(c)
    for copy in copies:
        harness.wait_for(lambda: caught_up(c, copy), f"{copy} to catch up")
    assert [r[0] for r in c.execute("SELECT role FROM replica_status")] == ["home", "copy", "copy"]
    c.close()
    for copy in copies:
        assert [f.read_bytes() for f in databases.files(copy)] == [f.read_bytes() for f in databases.files(replica)]
        assert_equal(copy, database)


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_lag_does_not_grow_while_commits_keep_coming(database, replica, journal):
    """It is the age of the oldest commit that is not acknowledged, not that of the first since all was quiet."""
    c = connect(database, replica)
    c.execute(f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(x)")
    began, lags = time.monotonic(), []
    while time.monotonic() - began < 2:
        write(c)
        lags.append((time.monotonic() - began, status(c)["lag_ms"]))
    assert max(lag for at, lag in lags) > 0
    assert statistics.median(lag for at, lag in lags if at > 1.5) < 1000
    c.close()


def test_a_copy_that_starts_late_gets_a_snapshot_first(database, replica, tmp_path):
    copy = tmp_path / "copy"
    c = connect(database, replica)
    c.execute("CREATE TABLE t(x)")
    for _ in range(3):
        write(c)
        txid = sync(c)
    c.close()
    c = connect(database, replica, replica2=databases.url(copy))
    harness.wait_for(lambda: caught_up(c, copy), "the copy to start")
    assert [f.name for f in databases.files(copy, 9)] == [f"{1:016x}-{txid:016x}.ltx"]
    write(c)
    sync(c)
    harness.wait_for(lambda: caught_up(c, copy), "the copy to follow")
    c.close()
    assert_equal(copy, database)


def test_an_emptied_copy_starts_over(database, replica, tmp_path):
    copy = tmp_path / "copy"
    c = connect(database, replica, replica2=databases.url(copy))
    c.execute("CREATE TABLE t(x)")
    for _ in range(2):
        write(c)
        sync(c)
    harness.wait_for(lambda: caught_up(c, copy), "the copy")

    def first_is_forgotten():
        write(c)
        sync(c)
        return not any(f.name.startswith(f"{1:016x}-") for f in (database.parent / "app.db-replica" / "ltx").iterdir())

    harness.wait_for(first_is_forgotten, "the log to lack what a copy begins with")
    shutil.rmtree(copy)
    copy.mkdir()
    write(c)
    sync(c)
    harness.wait_for(lambda: databases.files(copy, 9) or None, "a snapshot in the emptied copy")
    harness.wait_for(lambda: caught_up(c, copy), "the copy to follow")
    write(c)
    sync(c)
    harness.wait_for(lambda: caught_up(c, copy), "the copy to follow on")
    c.close()
    assert_equal(copy, database)
    assert_equal(replica, database)


def test_a_copy_of_another_database_is_reported_and_left_alone(database, replica, tmp_path):
    copy = tmp_path / "copy"
    other = connect(tmp_path / "other.db", copy)
    other.execute("CREATE TABLE other(x)")
    sync(other)
    other.close()
    names = databases.files(copy)
    c = connect(database, replica, replica2=databases.url(copy))
    c.execute("CREATE TABLE t(x)")
    write(c)
    sync(c)
    row = harness.wait_for(lambda: (s := status(c, replica=copy))["last_error"] and s, "the report")
    assert str(copy) in row["last_error"] and "copy of another" in row["last_error"] and row["acknowledged_txid"] is None
    assert status(c)["last_error"] is None, "home is well"
    assert "copy of another" in one(c, "SELECT replica_error()")
    c.close()
    assert databases.files(copy) == names
    assert_equal(replica, database)


def test_a_copy_that_cannot_be_reached_holds_nothing_up(database, replica, tmp_path):
    (tmp_path / "file").write_text("")
    copy = tmp_path / "file" / "copy"
    c = connect(database, replica, replica2=databases.url(copy))
    c.execute("CREATE TABLE t(x)")
    assert sync(c) == 1
    row = harness.wait_for(lambda: (s := status(c, replica=copy))["last_error"] and s, "the report")
    assert "a file is in its place" in row["last_error"]
    (tmp_path / "file").unlink()
    write(c)
    sync(c)
    harness.wait_for(lambda: caught_up(c, copy), "the copy to catch up by itself", timeout=60)
    c.close()
    assert_equal(copy, database)


def test_functions_take_the_schema_of_an_attached_database(database, replica, tmp_path):
    c = connect(database, replica)
    c.execute("ATTACH ? AS aux", (databases.uri(tmp_path / "aux.db", tmp_path / "aux"),))
    c.execute("CREATE TABLE main.t(x)")
    assert sync(c) == 1
    for _ in range(3):
        c.execute("CREATE TABLE IF NOT EXISTS aux.t(x)")
        c.execute("INSERT INTO aux.t VALUES (1)")
        assert one(c, "SELECT replica_sync(10, 'aux')") == one(c, "SELECT replica_txid('aux')")
    assert one(c, "SELECT replica_txid()") == 1 and one(c, "SELECT replica_txid('main')") == 1
    assert one(c, "SELECT replica_txid('aux')") >= 3
    assert status(c, "aux")["replica"] == databases.url(tmp_path / "aux")
    # One transaction over both files.
    c.execute("BEGIN")
    c.execute("INSERT INTO main.t VALUES (2)")
    c.execute("INSERT INTO aux.t VALUES (2)")
    c.execute("COMMIT")
    sync(c)
    one(c, "SELECT replica_sync(10, 'aux')")
    c.close()
    assert_equal(replica, database)
    assert_equal(tmp_path / "aux", tmp_path / "aux.db")


# argv: tests' folder, then statements' own. Each prints what it found, as JSON.
OPEN = """
import json, sqlite3, sys
sys.path.insert(0, sys.argv[1])
import databases
databases.load()
loader = sqlite3.connect(":memory:", uri=True)
def attempt(uri):
    try:
        c = sqlite3.connect(uri, uri=True, isolation_level=None)
        c.execute("CREATE TABLE IF NOT EXISTS t(x)")
        rows = c.execute("SELECT replica FROM replica_status WHERE schema = 'main'").fetchall()
        if rows:
            databases.sync(c)
        c.close()
        return [r for (r,) in rows]
    except sqlite3.Error as error:
        return str(error)
for line in sys.stdin:
    kind, *rest = json.loads(line)
    if kind == "configure":
        try:
            print(json.dumps(loader.execute("SELECT replica_configure(?, ?, ?)", rest).fetchone()[0]), flush=True)
        except sqlite3.Error as error:
            print(json.dumps(str(error)), flush=True)
    else:
        print(json.dumps(attempt(rest[0])), flush=True)
"""


@pytest.fixture
def opener(process):
    """Starts a process with an environment, and asks it to configure and to open."""

    def start(**environment):
        variables = {f"SQLITEREPLICATE_{name}": value for name, value in environment.items()}
        child = process(OPEN, harness.ROOT / "python-tests", env=harness.clean_environment(**variables))

        def ask(*request):
            child.tell(json.dumps([str(r) if r is not None else None for r in request]))
            return json.loads(child.line())

        return ask

    return start


def test_configure_and_default_vfs(opener, database, replica, tmp_path):
    ask = opener()
    assert ask("configure", database, databases.url(replica), '{"default_vfs": true, "replica_interval": "0"}') is None
    assert ask("open", f"file:{database}") == [databases.url(replica)]
    assert ask("open", f"file:{tmp_path}/other.db") == [], "others pass through"
    assert not (tmp_path / "other.db-replica").exists()
    assert ask("configure", database, "none", None) is None
    assert ask("open", f"file:{database}") == [], "configured away"
    assert_equal(replica, database)


@pytest.mark.parametrize(
    "path, url, options, words",
    [
        ("/x/app.db", "/b", None, "replica='/b' is no URL"),
        ("/x/app.db", "file:///b", "{", "options: no valid JSON"),
        ("/x/app.db", "file:///b", '{"interval": "1s"}', "interval='1s' is no setting; allowed: default_vfs, replica"),
        ("/x/app.db", "file:///b", '{"replica_interval": "soon"}', "replica_interval='soon' is not an allowed duration"),
        ("/x/app.db", "file:///b", '{"default_vfs": "maybe"}', "default_vfs"),
        (None, "file:///b", None, "path must be a text, not NULL"),
    ],
)
def test_configure_refuses_what_it_does_not_understand(opener, path, url, options, words):
    assert words in opener()("configure", path, url, options)


def test_config_file_with_a_glob(opener, tmp_path):
    config = tmp_path / "config.json"
    rules = [
        {"path": f"{tmp_path}/special.db", "replica": f"file://{tmp_path}/backup/of-special", "replica_interval": "0"},
        {"path": f"{tmp_path}/*.db", "replica": f"file://{tmp_path}/backup/{{name}}"},
    ]
    config.write_text(json.dumps(rules))
    ask = opener(CONFIG=config)
    for name, folder in [("special.db", "of-special"), ("a.db", "a.db"), ("b.db", "b.db")]:
        assert ask("open", f"file:{tmp_path}/{name}?vfs=replvfs") == [f"file://{tmp_path}/backup/{folder}"]
    assert "no replica is given" in ask("open", f"file:{tmp_path}/other.sqlite?vfs=replvfs")
    # The URI is stronger.
    assert ask("open", f"file:{tmp_path}/c.db?vfs=replvfs&replica=file://{tmp_path}/c") == [f"file://{tmp_path}/c"]
    assert ask("open", f"file:{tmp_path}/d.db?vfs=replvfs&replica=none") == []


@pytest.mark.parametrize(
    "content, words",
    [
        ("", None),
        ("[", "no valid JSON"),
        ('[{"replica": "file:///b"}]', "rule 1"),
        ('[{"path": "/x/*.db", "replica": "file:///b"}]', "contains {name} or {path}"),
        ('[{"path": "/x.db", "replica": "file:///b", "colour": "red"}]', "colour='red' is no setting"),
    ],
)
def test_bad_config_file_fails_each_open_with_the_reason(opener, database, tmp_path, content, words):
    config = tmp_path / "config.json"
    config.write_text(content)
    answer = opener(CONFIG=config)("open", f"file:{database}?vfs=replvfs")
    assert (words or "no replica is given") in answer
    assert not words or str(config) in answer
    assert not database.exists()


def test_environment_replicates_the_first_file_and_refuses_a_second(opener, database, replica, tmp_path):
    ask = opener(URL=databases.url(replica), INTERVAL="0")
    assert ask("open", f"file:{database}?vfs=replvfs") == [databases.url(replica)]
    text = ask("open", f"file:{tmp_path}/second.db?vfs=replvfs")
    assert isinstance(text, str) and str(database) in text, text
    assert not (tmp_path / "second.db").exists()
    assert ask("open", f"file:{database}?vfs=replvfs") == [databases.url(replica)], "the first again"


@pytest.mark.parametrize(
    "variables, words",
    [
        ({"URL": "backup"}, "SQLITEREPLICATE_URL='backup' is no URL"),
        ({"DATABASE": "/x/app.db"}, "SQLITEREPLICATE_DATABASE is set without SQLITEREPLICATE_URL"),
        ({"URL": "file:///b", "COLOUR": "red"}, "SQLITEREPLICATE_COLOUR='red' is no setting"),
        ({"URL": "file:///b", "INTERVAL": "soon"}, "SQLITEREPLICATE_INTERVAL='soon' is not an allowed duration"),
        ({"CONFIG": "/nowhere/config.json"}, "cannot read /nowhere/config.json"),
    ],
)
def test_bad_environment_fails_the_open_with_the_reason(opener, database, variables, words):
    assert words in opener(**variables)("open", f"file:{database}?vfs=replvfs")
    assert not database.exists()


def test_two_databases_of_one_replica_are_refused(database, replica, tmp_path):
    c = connect(database, replica)
    with pytest.raises(sqlite3.OperationalError, match="already the replica or log folder"):
        connect(tmp_path / "other.db", replica)
    c.close()
    assert not (tmp_path / "other.db").exists()


def test_folder_without_a_name_in_utf_8_is_taken_as_it_is(database, tmp_path):
    folders = [os.fsencode(tmp_path) + name for name in (b"/home\xff", b"/copy\xfe")]
    uri = f"file:{database}?vfs=replvfs&replica=file://{tmp_path}/home%ff&replica2=file://{tmp_path}/copy%fe"
    databases.load()
    c = sqlite3.connect(uri, uri=True, isolation_level=None)
    c.execute("CREATE TABLE t(x)")
    assert sync(c) == 1
    for folder in folders:
        harness.wait_for(lambda: os.path.isdir(folder + b"/ltx/0"), "the first file")
    c.close()
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"app.db", b"app.db-replica", b"copy\xfe", b"home\xff"]


def test_home_does_not_wait_for_a_copy_that_cannot_be_reached(database, replica, tmp_path):
    """A commit arrives at home between two attempts at the copy, which is tried again by itself all the while."""
    copy = tmp_path / "copy"
    copy.touch()
    c = connect(database, replica, replica2=databases.url(copy))
    c.execute("CREATE TABLE t(x)")
    txid = sync(c)

    def retries():
        return status(c, replica=copy)["retries"]

    def arrives_in_between():
        tried = retries()
        harness.wait_for(lambda: retries() > tried, "another attempt")
        nonlocal txid
        tried, txid = retries(), txid + 1
        write(c)
        name = replica / "ltx" / "0" / f"{txid:016x}-{txid:016x}.ltx"
        harness.wait_for(name.exists, "the commit in the home replica")
        return retries() == tried

    assert any(arrives_in_between() for _ in range(8))
    copy.unlink()
    harness.wait_for(lambda: caught_up(c, copy), "the copy")
    c.close()
    assert_equal(copy, database)
    assert_equal(replica, database)
