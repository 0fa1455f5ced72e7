"""`replica_rejoin()` under a process that is killed at each of its steps: nothing is lost, and it comes to an end at last."""

import json
import shutil
import sqlite3

import pytest

import databases
import harness
from databases import assert_equal, connect, one, plain, status, sync
from fork import rejoin
from machines import Machine, beside, insert

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])

# Opens, commits on its own, is fenced once it is told so, and rejoins.
ROLLER = """
import sys
sys.path.insert(0, sys.argv[1])
import databases
c = databases.connect(sys.argv[2], sys.argv[3], replica_interval="1h", replica_flush_timeout="0")
c.execute("UPDATE t SET x = 'lost' WHERE id = 5")
print("open", flush=True)
sys.stdin.readline()
print(databases.one(c, "SELECT replica_rejoin()"), flush=True)
sys.stdin.readline()
"""

# Rejoins at the open.
OPENER = """
import sys
sys.path.insert(0, sys.argv[1])
import databases
c = databases.connect(sys.argv[2], sys.argv[3], replica_on_conflict="rejoin")
print(databases.status(c)["last_event"], flush=True)
sys.stdin.readline()
"""


class Killed:
    """A loser, its files and the winner's replica, as they are before each step."""

    def __init__(self, fork, journal):
        self.fork, self.machine = fork, Machine(fork.loser, fork.replica)
        fork.begin(journal)
        self.keep()
        self.before, self.after = fork.folder / "before", fork.folder / "after"
        shutil.copytree(fork.replica, self.before)
        fork.win("UPDATE t SET x = 'won' WHERE id = 5", insert(9))
        shutil.copytree(fork.replica, self.after)
        places = [self.machine.log / name for name in ("rejoining", "rolling", "saved")]
        self.watched = [fork.loser, beside(fork.loser, "-wal"), beside(fork.loser, "-journal"), self.machine.log, *places]

    def keep(self):
        self.files, self.log = self.machine.files(), self.machine.keep_log()

    def lose(self):
        """The loser has committed on its own, and was killed."""
        self.put_back(self.before)
        with harness.Process(self.roller()) as process:
            assert process.line() == "open"
            process.kill()
        self.keep()

    def roller(self):
        return [harness.PYTHON, "-u", "-c", ROLLER, harness.ROOT / "python-tests", self.fork.loser, self.fork.replica]

    def opener(self):
        return [harness.PYTHON, "-u", "-c", OPENER, harness.ROOT / "python-tests", self.fork.loser, self.fork.replica]

    def let_win(self):
        """The winner's groups are there, and the loser has it open."""
        for file in databases.files(self.after)[1:]:
            shutil.copy2(file, self.fork.replica / "ltx" / "0")

    def put_back(self, replica):
        self.machine.put_back(self.files)
        self.machine.put_back_log(self.log)
        shutil.rmtree(self.fork.replica)
        shutil.copytree(replica, self.fork.replica)

    def state(self):
        """Which of the two the database holds; looked at in a copy, so that nobody finds that it was looked at."""
        copy = self.fork.folder / "looked-at.db"
        for suffix, data in zip(["", "-wal", "-journal"], self.machine.files()):
            beside(copy, suffix).unlink(missing_ok=True)
            if data is not None:
                beside(copy, suffix).write_bytes(data)
        c = plain(copy)
        assert one(c, "PRAGMA integrity_check") == "ok"
        found = one(c, "SELECT CAST(x AS TEXT) FROM t WHERE id = 5"), one(c, "SELECT count(*) FROM t")
        c.close()
        return {("lost", 20): "old", ("won", 29): "new"}.get(found, "before both")

    def check(self, step, was_lost):
        """Nothing is lost, and it comes to the end of the winner's history; which state was found."""
        history = databases.files(self.fork.replica)
        state = self.state()
        row = self.machine.open(power_lost=False)
        if state == "old":
            assert row["state"] == "Fenced", (step, row)
            assert self.state() == "old"
        elif state == "new":
            assert row["state"] in ("Live", "Cold", "Fenced"), (step, row)
        row = self.machine.open(power_lost=False, replica_on_conflict="rejoin")
        assert row["state"] in ("Live", "Cold") and self.state() == "new", (step, state, row)
        assert databases.files(self.fork.replica) == history, (step, state)
        if was_lost:
            saved = list((self.machine.log / "saved").iterdir())
            held = [self.fork.restored(folder, f"saved-{step}-{folder.name}.db")[0] for folder in saved]
            assert any(rows[4] == (5, "lost") and len(rows) == 20 for rows in held), (step, state, held)
        row = self.machine.open("INSERT INTO t(x) VALUES ('goes on')", power_lost=False)
        assert row["state"] in ("Live", "Cold"), (step, row)
        assert_equal(self.fork.replica, self.fork.loser)
        return state


CALLS = pytest.mark.parametrize("call", ["pwrite64", "fsync,fdatasync", "rename,renameat2,link,linkat", "unlink,unlinkat"])


@JOURNALS
@CALLS
def test_killed_at_any_step_it_is_the_old_state_or_the_new_one_and_nothing_is_lost(fork, journal, call):
    killed = Killed(fork, journal)
    states = set()
    for step in range(1, 400, 2):
        killed.put_back(killed.before)
        strace = harness.killed_at(call, step, killed.watched if call == "pwrite64" else [])
        with harness.Process([*strace, *killed.roller()]) as process:
            # Opened while it is the newest; then the winner's groups are there.
            opened, done = process.line() == "open", None
            if opened:
                killed.let_win()
                process.tell("go")
                done = process.line()
            process.kill()
        if opened:
            states.add(killed.check(step, was_lost=True))
        if done is not None:
            assert json.loads(done)["groups"] == 1 and {"old", "new"} >= states
            return
    raise AssertionError("it never came to an end")


@JOURNALS
@CALLS
def test_killed_at_any_step_of_an_open_that_rejoins_nothing_is_lost(fork, journal, call):
    killed = Killed(fork, journal)
    killed.lose()
    for step in range(1, 400, 2):
        killed.put_back(killed.after)
        strace = harness.killed_at(call, step, killed.watched if call == "pwrite64" else [])
        with harness.Process([*strace, *killed.opener()]) as process:
            done = process.line()
            process.kill()
        killed.check(step, was_lost=True)
        if done is not None:
            assert "rejoined" in done
            return
    raise AssertionError("it never came to an end")


@JOURNALS
def test_process_that_lives_on_when_another_dies_while_it_rejoins_loses_nothing(fork, journal):
    killed = Killed(fork, journal)
    states = set()
    for step in [1, 2, 3, 5, 9, 14, 20]:
        killed.put_back(killed.before)
        c = connect(fork.loser, fork.replica)
        assert one(c, "SELECT count(*) FROM t") == 20
        strace = harness.killed_at("pwrite64,unlink,unlinkat", step, killed.watched + [killed.machine.log / "ltx"])
        with harness.Process([*strace, *killed.roller()]) as process:
            if process.line() == "open":
                killed.let_win()
                process.tell("go")
                process.line()
                history = databases.files(fork.replica)
                c.execute("PRAGMA user_version=3")
                try:
                    sync(c)
                except sqlite3.OperationalError:
                    pass
                states.add(status(c)["state"])
                if states == {"Fenced"} or status(c)["state"] == "Fenced":
                    assert databases.files(fork.replica) == history, step
                    rejoin(c)
                assert one(c, "SELECT CAST(x AS TEXT) FROM t WHERE id = 5") == "won" and one(c, "SELECT count(*) FROM t") == 29, step
                held = [fork.restored(folder, f"saved-{step}-{folder.name}.db")[0] for folder in (fork.log / "saved").iterdir()]
                assert any((5, "lost") in rows and len(rows) == 20 for rows in held), (step, held)
                c.execute("INSERT INTO t(x) VALUES ('goes on')")
                sync(c)
            process.kill()
        c.close()
        if (fork.log / "saved").exists():
            assert_equal(fork.replica, fork.loser)
    assert "Fenced" in states


@JOURNALS
def test_fence_lasts_when_the_marks_of_the_file_are_gone_and_it_cannot_rejoin(fork, journal):
    killed = Killed(fork, journal)
    killed.lose()
    killed.put_back(killed.after)
    history = databases.files(fork.replica)
    strace = harness.killed_at("pwrite64", 1, [fork.loser, beside(fork.loser, "-journal")])
    with harness.Process([*strace, *killed.opener()]) as process:
        assert process.line() is None
    for _ in range(2):
        assert (fork.log / "rejoining").exists()
        c, other = connect(fork.loser, fork.replica, replica_open_timeout="50ms"), plain(fork.loser)
        assert status(c)["state"] == "Fenced" and one(c, "SELECT CAST(x AS TEXT) FROM t WHERE id = 5") == "lost"
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            rejoin(c)
        other.execute("COMMIT")
        other.close()
        c.close()
    c = connect(fork.loser, fork.replica)
    done = rejoin(c)
    assert one(c, "SELECT CAST(x AS TEXT) FROM t WHERE id = 5") == "won" and databases.files(fork.replica) == history
    assert (5, "lost") in fork.restored(done["saved"], "saved.db")[0]
    c.close()
