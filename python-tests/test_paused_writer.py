"""A writer slept while another one used the name that it was about to create, merged it and let it expire.

Two processes, each with its own copy of database and local log, one replica: a folder or a place in a bucket. Creating the
name succeeds, because it is free again; the commit must not become history all the same. The merged file is a real one: a
second replica that starts late gets the whole history as one file, which the test puts into the first replica; expiry is
done by the test, oldest first, the two newest stay, and by the store's clock the time has passed in which nothing expires.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import threading
from pathlib import Path

import databases
import harness
import pytest
import s3_servers
from s3_proxy import Proxy
from shell import Shell

# Longer than the half of replica_l0_retention.
LONG_ENOUGH = 160


def name(txid):
    return f"{txid:016x}-{txid:016x}.ltx"


class World:
    """One replica, and two copies of one database that follow it. Both reach a bucket through a proxy."""

    def __init__(self, folder, replica, extension, process):
        self.folder, self.replica, self.extension, self.process = folder, replica, extension, process
        self.near, self.proxy = replica, None

    def through(self, proxy):
        self.proxy = proxy
        self.replica = s3_servers.Bucket(self.near.server, self.near.prefix, proxy)
        return self

    def shell(self, copy, *before, **more):
        """A process that obeys; `before` are words in front of its command."""
        uri = databases.uri(self.folder / copy / "app.db", self.replica, replica_interval="10ms", **more)
        shell = Shell(self.process, self.extension, uri, *before)
        assert shell.ask("PRAGMA journal_mode=WAL") == [["wal"]]
        return shell

    def has(self, txid):
        return name(txid) in [file.name for file in databases.files(self.near)]

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
        b = self.shell("b", replica2=databases.url(second))
        assert b.sync() == self.newest
        merged = f"{1:016x}-{self.newest:016x}.ltx"
        harness.wait_for(lambda: (second / "ltx" / "9" / merged).exists(), "the copy's snapshot")
        b.finish()
        data, expired = (second / "ltx" / "9" / merged).read_bytes(), range(1, self.newest - 1)
        if self.proxy:
            self.near.write(9, merged, data)
            for txid in expired:
                self.near.delete(0, name(txid))
            self.proxy.ahead += LONG_ENOUGH
        else:
            (self.near / "ltx" / "9").mkdir()
            (self.near / "ltx" / "9" / merged).write_bytes(data)
            for txid in expired:
                (self.near / "ltx" / "0" / name(txid)).unlink()

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
        harness.run([harness.CLI, "restore", databases.url(self.near), restored])
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
    if not isinstance(replica, s3_servers.Bucket):
        made.begin()
        yield made
        return
    with Proxy(replica.server) as proxy:
        made.through(proxy).begin()
        yield made


EXPIRED = pytest.mark.parametrize("expired", [False, True])


@pytest.mark.parametrize("replica", ["folder", "moto", "weed"], indirect=True)
@EXPIRED
def test_writer_paused_before_its_commit_is_fenced(world, expired):
    a = world.shell("a")
    a.send_signal(signal.SIGSTOP)
    world.other_wins()
    if expired:
        world.merge_and_expire()
    a.send_signal(signal.SIGCONT)
    assert a.ask("INSERT INTO t VALUES ('a')") == []
    world.check(a)
    assert world.has(world.common + 1) == (not expired), "what it added is taken back"


@EXPIRED
def test_writer_paused_between_its_looks_and_the_create_is_fenced(world, expired):
    names = world.near / "ltx" / "0"
    target = names / name(world.common + 1)
    # The call that gives just this name is delayed; stopping strace meanwhile stops the writer right there.
    calls = "linkat,renameat2"
    hold = ["-P", target, "-e", f"trace={calls}", "-e", f"inject={calls}:delay_enter=1000000:when=1"]
    a = world.shell("a", "strace", "-f", "-qq", "-o", world.folder / "strace", *hold)
    assert a.ask("INSERT INTO t VALUES ('a')") == []
    harness.wait_for(lambda: nameless_file(a.process.pid, names), "the file before it has its name")
    a.send_signal(signal.SIGSTOP)
    assert not target.exists()
    world.other_wins()
    if expired:
        world.merge_and_expire()
    a.send_signal(signal.SIGCONT)
    world.check(a)
    assert target.exists() == (not expired), "what it added is taken back"


@pytest.mark.parametrize("replica", ["moto", "weed"], indirect=True)
@pytest.mark.parametrize("fate", [None, "cut"])
@EXPIRED
def test_writer_whose_put_was_under_way_while_it_slept_is_fenced(world, expired, fate):
    """The store takes the put long after it was sent; with `fate`, nobody hears of that."""
    held, go_on = threading.Event(), threading.Event()

    def plan(request):
        if request.method != "PUT" or not request.key.endswith(name(world.common + 1)) or request.times > 0:
            return None
        held.set()
        assert go_on.wait(60)
        return fate

    world.proxy.plan = plan
    a = world.shell("a")
    assert a.ask("INSERT INTO t VALUES ('a')") == []
    assert held.wait(30)
    a.send_signal(signal.SIGSTOP)
    world.other_wins()
    if expired:
        world.merge_and_expire()
    go_on.set()
    if expired:
        harness.wait_for(lambda: world.has(world.common + 1), "the late put")
    a.send_signal(signal.SIGCONT)
    world.check(a)
    assert world.has(world.common + 1) == (not expired), "what it added is taken back"
