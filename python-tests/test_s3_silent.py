"""A store that does not answer holds up nobody: not the open of its own database, not that of others, not a close."""

import sqlite3
import threading
import time

import harness
import pytest
import s3_servers
from s3_proxy import Proxy

SCRIPT = """
import sqlite3, sys, time
extension, *uris = sys.argv[1:]
c = sqlite3.connect(":memory:"); c.enable_load_extension(True); c.load_extension(extension)
open_now = {}
for line in sys.stdin:
    what, number, *sql = line.rstrip().split(" ", 2)
    try:
        if what == "open":
            open_now[number] = sqlite3.connect(uris[int(number)], uri=True, isolation_level=None)
            open_now[number].execute("CREATE TABLE IF NOT EXISTS t(x)")
            print("open", flush=True)
        elif what == "close":
            open_now.pop(number).close()
            print("closed", flush=True)
        else:
            print(open_now[number].execute(sql[0]).fetchone(), flush=True)
    except sqlite3.Error as error:
        print(error, flush=True)
"""


@pytest.fixture(scope="module")
def weed(tmp_path_factory):
    started = s3_servers.weed(tmp_path_factory.mktemp("weed"))
    yield started
    started.stop()


def uri(database, proxy, prefix, **settings):
    more = "".join(f"&replica_{name}={value}" for name, value in settings.items())
    return (
        f"file:{database}?vfs=replvfs&replica=s3://bkt/{prefix}&replica_endpoint={proxy.endpoint}"
        f"&replica_region={s3_servers.REGION}&replica_open_timeout=300ms&replica_flush_timeout=100ms{more}"
    )


def test_open_goes_on_as_recorded_and_what_is_committed_goes_up_when_the_store_is_back(weed, tmp_path):
    away = threading.Event()
    with Proxy(weed, plan=lambda _: "silence" if away.is_set() else None, silence=60) as proxy:
        database = tmp_path / "app.db"
        known, folder = uri(database, proxy, "known"), f"file:{tmp_path}/other.db?vfs=replvfs&replica=file://{tmp_path}/r"
        new = uri(tmp_path / "new.db", proxy, "new")
        waits = uri(tmp_path / "waits.db", proxy, "waits", durability="commit")
        extension = harness.EXTENSION.with_suffix("")
        with harness.Process(SCRIPT, extension, known, folder, new, waits, env=weed.environment()) as process:

            def ask(text):
                process.tell(text)
                return process.line()

            for number in (0, 3):
                assert ask(f"open {number}") == "open"
                assert ask(f"do {number} INSERT INTO t VALUES (1)") == "None"
                assert ask(f"do {number} SELECT replica_sync() > 0") == "(1,)"
                assert ask(f"close {number}") == "closed"
            away.set()
            assert ask("open 0") == "open"
            assert ask("do 0 INSERT INTO t VALUES (2)") == "None"
            answer = ask("do 0 SELECT replica_sync('200ms')")
            assert "not everything is in the replica yet after 200 ms" in answer and "no answer in time" in answer
            answer = ask("do 0 SELECT state, last_error FROM replica_status")
            assert "Live" in answer and "no answer in time" in answer and s3_servers.SECRET not in answer
            answer = ask("open 2")
            assert f"{tmp_path}/new.db is not opened before its replica has answered: cannot " in answer
            assert not (tmp_path / "new.db").exists()
            assert ask("open 3") == "open", "for reading, while it is known what it was"
            assert ask("do 3 SELECT x FROM t") == "(1,)"
            # A put hangs in the worker: neither another database nor the close waits for it.
            assert ask("open 1") == "open"
            assert ask("do 1 INSERT INTO t VALUES (1)") == "None"
            assert ask("do 1 SELECT replica_sync() > 0") == "(1,)"
            assert ask("close 0") == "closed"
            assert ask("open 0") == "open"
            assert ask("do 0 INSERT INTO t VALUES (3)") == "None"
            away.clear()
            proxy.stop()
        with Proxy(weed) as proxy:
            known = uri(database, proxy, "known")
            with harness.Process(SCRIPT, extension, known, env=weed.environment()) as process:
                assert ask("open 0") == "open"
                assert ask("do 0 SELECT replica_sync() > 1") == "(1,)"
                harness.run([harness.CLI, "restore", proxy.url("known"), tmp_path / "r.db"], env=weed.environment())
                rows = sqlite3.connect(tmp_path / "r.db").execute("SELECT x FROM t").fetchall()
                assert rows == [(1,), (2,), (3,)]


def test_another_end_of_the_replica_found_later_fences(weed, tmp_path):
    """While the store is silent the database goes on; meanwhile a copy of it has continued the replica."""
    away = threading.Event()
    with Proxy(weed, plan=lambda _: "silence" if away.is_set() else None, silence=60) as proxy, Proxy(weed) as good:
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        extension = harness.EXTENSION.with_suffix("")
        with harness.Process(SCRIPT, extension, uri(first / "app.db", good, "two"), env=weed.environment()) as process:
            for text in ("open 0", "do 0 INSERT INTO t VALUES (1)", "do 0 SELECT replica_sync()", "close 0"):
                process.tell(text)
                process.line()
        harness.run(["cp", "-a", first, second])
        away.set()
        ours, theirs = uri(first / "app.db", proxy, "two"), uri(second / "app.db", good, "two", log=second / "app.db-replica")
        with harness.Process(SCRIPT, extension, ours, env=weed.environment()) as one:
            one.tell("open 0")
            assert one.line() == "open"
            one.tell("do 0 INSERT INTO t VALUES (2)")
            assert one.line() == "None"
            with harness.Process(SCRIPT, extension, theirs, env=weed.environment()) as two:
                for text in ("open 0", "do 0 INSERT INTO t VALUES (3)", "do 0 SELECT replica_sync() > 0"):
                    two.tell(text)
                    answer = two.line()
                assert answer == "(1,)"
            away.clear()
            deadline = time.monotonic() + 60
            while "Fenced" not in (answer := _ask(one, "do 0 SELECT state, last_error FROM replica_status")):
                assert time.monotonic() < deadline, answer
                time.sleep(0.1)
            assert "in a state that this database did not send" in answer


def _ask(process, text):
    process.tell(text)
    return process.line()


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_first_write_that_would_wait_for_a_silent_store_is_held_back(weed, tmp_path, mode):
    """`replica_durability=commit`: reading goes on; a write says busy, changes nothing, and goes on when the store is back."""
    away, database = threading.Event(), tmp_path / "app.db"
    with Proxy(weed, plan=lambda _: "reset" if away.is_set() else None) as proxy:
        name = uri(database, proxy, f"gate-{mode}", durability="commit", sync_timeout="300ms")
        extension = harness.EXTENSION.with_suffix("")
        with harness.Process(SCRIPT, extension, name, env=weed.environment()) as process:

            def ask(text):
                process.tell(text)
                return process.line()

            assert ask("open 0") == "open"
            assert ask(f"do 0 PRAGMA journal_mode={mode}") == f"('{mode}',)"
            assert ask("do 0 INSERT INTO t VALUES (1)") == "None"
            assert ask("close 0") == "closed"
            away.set()
            assert ask("open 0") == "open"
            answer = ask("do 0 SELECT state, last_error FROM replica_status")
            assert "Live" in answer and "the first write waits until it answers" in answer
            # The busy timeout asks again and again.
            assert ask("do 0 PRAGMA busy_timeout=1000") == "(1000,)"
            for _ in range(2):
                assert ask("do 0 INSERT INTO t VALUES (2)") == "database is locked"
                answer = ask("do 0 SELECT replica_error()")
                assert f"{database} is open for reading only until s3://bkt/gate-{mode} answers: nothing was written: " in answer
                assert ask("do 0 SELECT group_concat(x) FROM t") == "('1',)"
            away.clear()
            assert ask("do 0 INSERT INTO t VALUES (3)") == "None"
            assert ask("do 0 SELECT group_concat(x) FROM t") == "('1,3',)"


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_nothing_is_written_where_another_has_won_while_the_store_was_silent(weed, tmp_path, mode):
    away, prefix = threading.Event(), f"won-{mode}"
    with Proxy(weed, plan=lambda _: "reset" if away.is_set() else None) as proxy, Proxy(weed) as good:
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        extension = harness.EXTENSION.with_suffix("")
        with harness.Process(SCRIPT, extension, uri(first / "app.db", good, prefix), env=weed.environment()) as process:
            assert _ask(process, "open 0") == "open"
            assert _ask(process, f"do 0 PRAGMA journal_mode={mode}") == f"('{mode}',)"
            for text in ("do 0 INSERT INTO t VALUES (1)", "do 0 SELECT replica_sync()", "close 0"):
                _ask(process, text)
        harness.run(["cp", "-a", first, second])
        away.set()
        ours = uri(first / "app.db", proxy, prefix, durability="commit", sync_timeout="60s")
        theirs = uri(second / "app.db", good, prefix, log=second / "app.db-replica")
        with harness.Process(SCRIPT, extension, ours, env=weed.environment()) as one:
            assert _ask(one, "open 0") == "open"
            with harness.Process(SCRIPT, extension, theirs, env=weed.environment()) as two:
                assert _ask(two, "open 0") == "open"
                assert _ask(two, "do 0 INSERT INTO t VALUES (3)") == "None"
                assert _ask(two, "do 0 SELECT replica_sync() > 0") == "(1,)"
            one.tell("do 0 INSERT INTO t VALUES (2)")
            away.clear()
            assert one.line() == "attempt to write a readonly database"
            answer = _ask(one, "do 0 SELECT replica_error()")
            assert f"nothing was written to {first}/app.db: " in answer and "another writer won" in answer
            assert _ask(one, "do 0 SELECT group_concat(x) FROM t") == "('1',)"
