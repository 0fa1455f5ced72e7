"""A writer slept while another one used the name that it was about to create, merged it and let it expire.

Two processes, each with its own copy of database and local log, one replica folder. Creating the name succeeds,
because it is free again; the commit must not become history all the same. The merged file is a real one: a second
replica that starts late gets the whole history as one file, which the test moves into the first replica; expiry is
done by the test, oldest first, the two newest stay.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import harness
import pytest
from shell import Shell


def name(txid):
    return f"{txid:016x}-{txid:016x}.ltx"


class World:
    """One replica, and two copies of one database that follow it."""

    def __init__(self, folder, replica, extension, process):
        self.folder = folder
        self.replica = replica
        self.extension = extension
        self.process = process
        self.names = replica / "ltx" / "0"

    def shell(self, copy, *before, more=""):
        """A process that obeys; `before` are words in front of its command."""
        uri = f"file:{self.folder / copy / 'app.db'}?vfs=replvfs&replica=file://{self.replica}{more}"
        shell = Shell(self.process, self.extension, uri, *before)
        assert shell.ask("PRAGMA journal_mode=WAL") == [["wal"]]
        return shell

    def begin(self):
        """Two equal copies at the same txid, closed."""
        (self.folder / "a").mkdir()
        a = self.shell("a")
        a.ask("CREATE TABLE t(x)")
        for _ in range(3):
            a.ask("INSERT INTO t VALUES (zeroblob(3000))")
            self.common = a.sync()
        a.finish()
        shutil.copytree(self.folder / "a", self.folder / "b")

    def other_wins(self):
        """Copy b commits."""
        b = self.shell("b")
        for number in range(4):
            b.ask(f"INSERT INTO t VALUES ('b{number}')")
            self.newest = b.sync()
        assert self.newest == self.common + 4
        b.finish()

    def merge_and_expire(self):
        second = self.folder / "second"
        b = self.shell("b", more=f"&replica2=file://{second}")
        assert b.sync() == self.newest
        merged = f"{1:016x}-{self.newest:016x}.ltx"
        harness.wait_for(lambda: (second / "ltx" / "9" / merged).exists(), "the copy's snapshot")
        b.finish()
        (self.replica / "ltx" / "9").mkdir()
        (second / "ltx" / "9" / merged).rename(self.replica / "ltx" / "9" / merged)
        for txid in range(1, self.newest - 1):
            (self.names / name(txid)).unlink()

    def check(self, a):
        """Writer a gave up and kept its own commit; the history is b's."""
        answer = a.sync()
        assert isinstance(answer, str), f"acknowledged as txid {answer}"
        columns = "state, acknowledged_txid, last_error"
        ((state, acknowledged, error),) = a.ask(f"SELECT {columns} FROM replica_status")
        assert (state, acknowledged) == ("Fenced", self.common), error
        log = self.folder / "a" / "app.db-replica" / "ltx"
        assert (log / name(self.common + 1)).exists(), "the staged file is kept"
        assert a.ask("INSERT INTO t VALUES ('a, fenced')") == [], "the application goes on"
        a.finish()
        restored = self.folder / "restored.db"
        harness.run([harness.CLI, "restore", f"file://{self.replica}", restored])
        with sqlite3.connect(restored) as c:
            rows = c.execute("SELECT x FROM t WHERE typeof(x)='text'").fetchall()
        assert rows == [("b0",), ("b1",), ("b2",), ("b3",)]
        # Somebody continues: the history is still one chain.
        b = self.shell("b")
        b.ask("INSERT INTO t VALUES ('b4')")
        assert b.sync() == self.newest + 1
        b.finish()


def nameless_file(tracer, folder):
    """Whether a child of `tracer` writes a file in `folder` that has no name, or a passing one."""
    children = Path(f"/proc/{tracer}/task/{tracer}/children").read_text().split()
    links = []
    for child in children:
        for fd in Path(f"/proc/{child}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(fd))
    return any(link.startswith(f"{folder}/") and link.endswith((" (deleted)", ".tmp")) for link in links)


@pytest.fixture
def world(tmp_path, replica, extension, process):
    made = World(tmp_path, replica, extension, process)
    made.begin()
    return made


@pytest.mark.parametrize("expired", [False, True])
def test_writer_paused_before_its_commit_is_fenced(world, expired):
    a = world.shell("a")
    a.send_signal(signal.SIGSTOP)
    world.other_wins()
    if expired:
        world.merge_and_expire()
    a.send_signal(signal.SIGCONT)
    assert a.ask("INSERT INTO t VALUES ('a')") == []
    world.check(a)
    assert (world.names / name(world.common + 1)).exists() == (not expired), "what it added is taken back"


@pytest.mark.parametrize("expired", [False, True])
def test_writer_paused_between_its_looks_and_the_create_is_fenced(world, expired):
    target = world.names / name(world.common + 1)
    # The call that gives just this name is delayed; stopping strace meanwhile stops the writer right there.
    calls = "linkat,renameat2"
    hold = ["-P", target, "-e", f"trace={calls}", "-e", f"inject={calls}:delay_enter=1000000:when=1"]
    a = world.shell("a", "strace", "-f", "-qq", "-o", world.folder / "strace", *hold)
    assert a.ask("INSERT INTO t VALUES ('a')") == []
    harness.wait_for(lambda: nameless_file(a.process.pid, world.names), "the file before it has its name")
    a.send_signal(signal.SIGSTOP)
    assert not target.exists()
    world.other_wins()
    if expired:
        world.merge_and_expire()
    a.send_signal(signal.SIGCONT)
    world.check(a)
    assert target.exists() == (not expired), "what it added is taken back"
