"""Several databases and one place in a bucket: one history, and everybody else is told."""

import json
import os
import shutil

import databases
import harness
import pytest
import s3_servers
from databases import connect, one, plain, sync
from s3_proxy import Proxy
from shell import Shell

LONG = bool(os.environ.get("LONG"))
RACERS, RACES = 32, 10 if LONG else 1

ON_MOTO = pytest.mark.parametrize("replica", ["moto"], indirect=True)
ON_BOTH = pytest.mark.parametrize("replica", ["moto", "weed"], indirect=True)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


def begin(database, replica):
    """A database with a few rows, replicated and closed; the txid."""
    c = connect(database, replica)
    one(c, "PRAGMA journal_mode=WAL")
    c.execute("CREATE TABLE t(x)")
    for number in range(3):
        c.execute("INSERT INTO t VALUES (?)", (f"common {number}",))
        txid = sync(c)
    c.close()
    return txid


@ON_MOTO
def test_second_host_with_a_database_of_its_own_is_refused(database, replica, tmp_path):
    begin(database, replica)
    (tmp_path / "host").mkdir()
    other = tmp_path / "host" / "app.db"
    with pytest.raises(databases.sqlite3.OperationalError) as error:
        connect(other, replica).execute("SELECT 1 FROM sqlite_schema")
    assert "replica_if_missing" in str(error.value) and not other.exists(), error.value
    c = plain(other)
    c.execute("CREATE TABLE mine(x)")
    c.close()
    before, names = other.read_bytes(), databases.files(replica)
    with pytest.raises(databases.sqlite3.OperationalError) as error:
        connect(other, replica).execute("SELECT 1 FROM sqlite_schema")
    assert str(other) in str(error.value) and "s3://bkt/" in str(error.value), error.value
    assert other.read_bytes() == before and databases.files(replica) == names
    assert [file.name for file in other.parent.iterdir()] == ["app.db"], "no log is left behind"


@ON_MOTO
def test_copy_that_began_at_the_same_state_is_fenced_by_the_first_commit(database, replica, tmp_path, process, extension):
    """A copied file without a log is the head, so it may go on; who commits second is told."""
    txid = begin(database, replica)
    (tmp_path / "host").mkdir()
    shutil.copy(database, tmp_path / "host" / "app.db")
    uris = [databases.uri(path, replica, replica_interval="0") for path in (database, tmp_path / "host" / "app.db")]
    first, second = (Shell(process, extension, uri) for uri in uris)
    for shell in (first, second):
        assert shell.ask("SELECT acknowledged_txid FROM replica_status") == [[txid]]
    assert first.ask("INSERT INTO t VALUES ('first')") == [] and first.sync() == txid + 1
    assert second.ask("INSERT INTO t VALUES ('second')") == []
    answer = second.sync()
    assert isinstance(answer, str) and "another writer" in answer, answer
    assert second.ask("SELECT state FROM replica_status") == [["Fenced"]]
    assert first.ask("INSERT INTO t VALUES ('more')") == [] and first.sync() == txid + 2
    for shell in (first, second):
        shell.finish()
    assert databases.assert_equal(replica, database) == txid + 2


@ON_MOTO
def test_two_databases_of_one_process_cannot_share_a_place(database, replica, tmp_path):
    c = connect(database, replica)
    with pytest.raises(databases.sqlite3.OperationalError) as error:
        connect(tmp_path / "other.db", replica).execute("SELECT 1 FROM sqlite_schema")
    assert "s3://bkt/" in str(error.value) and str(database) in str(error.value), error.value
    c.close()


# argv: extension, URI. Commits and syncs at the first line of its input; prints txid or error, and the state.
RACER = """
import json, os, sqlite3, sys
extension, uri = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
c = sqlite3.connect(uri, uri=True, isolation_level=None)
c.execute("SELECT count(*) FROM t").fetchone()
print("ready")
sys.stdin.readline()
try:
    c.execute("INSERT INTO t VALUES (?)", (str(os.getpid()),))
    (answer,) = c.execute("SELECT replica_sync(120)").fetchone()
except sqlite3.Error as error:
    answer = str(error)
print(json.dumps([answer, *c.execute("SELECT state, acknowledged_txid FROM replica_status").fetchone()]))
c.close()
"""


@ON_BOTH
def test_one_of_many_that_create_the_same_txid_wins(database, replica, tmp_path, process, extension):
    """Each has its own copy of database and log, and commits at the same moment as all others."""
    txid = begin(database, replica)
    winner = database.parent
    for race in range(RACES):
        folders = [tmp_path / f"race-{race}-{racer}" for racer in range(RACERS)]
        for folder in folders:
            folder.mkdir()
            shutil.copy(winner / "app.db", folder)
            shutil.copytree(winner / "app.db-replica", folder / "app.db-replica")
        uris = [databases.uri(folder / "app.db", replica, replica_open_timeout="60s") for folder in folders]
        racers = [process(RACER, extension, uri) for uri in uris]
        for racer in racers:
            racer.until("ready", timeout=120)
        for racer in racers:
            racer.tell("go")
        results = [json.loads(racer.line(timeout=150)) for racer in racers]
        for racer in racers:
            racer.finish()
        won = [number for number, (answer, _, _) in enumerate(results) if answer == txid + 1]
        assert len(won) == 1, results
        for number, (answer, state, acknowledged) in enumerate(results):
            if number not in won:
                assert isinstance(answer, str) and "another writer" in answer, answer
                assert (state, acknowledged) == ("Fenced", txid), results[number]
        txid += 1
        winner = folders[won[0]]
        assert databases.assert_equal(replica, winner / "app.db") == txid
        assert [file.name for file in databases.files(replica)][-1] == f"{txid:016x}-{txid:016x}.ltx"


class Emptied:
    """A database that replicates through a proxy, told what to do."""

    def __init__(self, process, extension, database, replica, proxy):
        self.process, self.extension, self.near = process, extension, replica
        far = s3_servers.Bucket(replica.server, replica.prefix, proxy)
        self.uri = databases.uri(database, far, replica_interval="0")
        self.open()
        self.shell.ask("PRAGMA journal_mode=WAL")
        self.shell.ask("CREATE TABLE t(x)")
        for _ in range(3):
            self.txid = self.write()

    def open(self):
        self.shell = Shell(self.process, self.extension, self.uri)

    def write(self):
        assert self.shell.ask("INSERT INTO t VALUES (randomblob(3000))") == []
        return self.shell.sync()

    def starts_over(self, database):
        """With all pages, and it says so."""
        newest = self.write()
        ((event,),) = self.shell.ask("SELECT last_event FROM replica_status")
        assert "start" in event, event
        self.shell.finish()
        names = [file.name for file in databases.files(self.near)]
        assert names == [f"{n:016x}-{n:016x}.ltx" for n in range(1, newest + 1)]
        assert databases.assert_equal(self.near, database) == newest


@ON_MOTO
def test_bucket_emptied_under_an_idle_database_starts_over_with_its_next_commit(database, replica, process, extension):
    with Proxy(replica.server) as proxy:
        app = Emptied(process, extension, database, replica, proxy)
        replica.empty()
        proxy.ahead = 160
        app.write()
        app.starts_over(database)


@ON_MOTO
def test_bucket_emptied_under_a_busy_database_starts_over_before_long(database, replica, process, extension):
    """A writer that commits all the time leaves the look out, but not for ever."""
    with Proxy(replica.server) as proxy:
        app = Emptied(process, extension, database, replica, proxy)
        replica.empty()
        for _ in range(16):
            proxy.ahead += 10
            app.write()
        app.starts_over(database)


@ON_MOTO
def test_bucket_emptied_while_nobody_has_the_database_open_starts_over(database, replica, process, extension):
    with Proxy(replica.server) as proxy:
        app = Emptied(process, extension, database, replica, proxy)
        app.shell.finish()
        replica.empty()
        app.open()
        app.starts_over(database)


@ON_MOTO
@pytest.mark.parametrize("is_open", [True, False])
def test_bucket_that_lost_a_part_of_its_history_is_told_until_it_is_whole(database, replica, process, extension, is_open):
    """As a rule of the bucket does it that deletes what is old: no commit is acknowledged that nobody could restore."""
    with Proxy(replica.server) as proxy:
        app = Emptied(process, extension, database, replica, proxy)
        app.shell.finish()
        first = databases.files(replica)[0].name
        data = replica.read(0, first)
        if is_open:
            app.open()
            replica.delete(0, first)
            proxy.ahead = 160
        else:
            replica.delete(0, first)
            app.open()
        assert app.shell.ask("INSERT INTO t VALUES (1)") == []
        answer = app.shell.sync(1)
        assert isinstance(answer, str) and "files of the history" in answer and "were removed" in answer, answer
        assert app.shell.ask("SELECT acknowledged_txid, state FROM replica_status") == [[app.txid, "Live"]]
        replica.write(0, first, data)
        txid = app.shell.sync(60)
        assert txid == app.txid + 1
        app.shell.finish()
        assert databases.assert_equal(replica, database) == txid
