"""The replica's folder vanishes, fills up, turns read-only, or is emptied for a while.

Commits go on as if nothing were; error and lag show in replica_status; afterwards it catches up by itself.
"""

import contextlib
import os
import shutil
import sqlite3
import subprocess

import harness
import pytest
from shell import Shell

ROWS = 40


@contextlib.contextmanager
def mounted(folder, *options):
    """A small filesystem at `folder`, for as long as the block runs."""
    folder.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", *options, folder], capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


class Application:
    """A process that writes one database, told what to do line by line."""

    def __init__(self, process, extension, folder, replica, journal):
        self.database = folder / "app.db"
        self.restored = folder / "restored.db"
        self.replica = replica
        uri = f"file:{self.database}?vfs=replvfs&replica=file://{replica}&replica_sync_timeout=50ms"
        self.shell = Shell(process, extension, uri)
        self.shell.ask(f"PRAGMA journal_mode={journal}")
        self.shell.ask("CREATE TABLE t(x)")
        self.write()
        self.txid = self.sync(30)

    def write(self, rows=ROWS):
        for _ in range(rows):
            assert self.shell.ask("INSERT INTO t VALUES (randomblob(2000))") == []

    def sync(self, timeout=0.05):
        answer = self.shell.sync(timeout)
        assert not isinstance(answer, str), answer
        return answer

    def status(self):
        columns = ["state", "acknowledged_txid", "lag_ms", "last_error", "last_event", "retries"]
        ((row),) = self.shell.ask(f"SELECT {', '.join(columns)} FROM replica_status")
        return dict(zip(columns, row))

    def suffers(self, words):
        """Writes on while nothing gets through; the reason shows."""
        self.write()
        harness.wait_for(lambda: self.status()["last_error"], "an error in replica_status")
        harness.wait_for(lambda: self.status()["lag_ms"] > 0, "lag in replica_status")
        status = self.status()
        assert any(word in status["last_error"] for word in words), status
        assert status["state"] in ("Live", "Cold"), status
        assert status["acknowledged_txid"] == self.txid, status
        answer = self.shell.sync(0.05)
        assert isinstance(answer, str) and any(word in answer for word in words), answer
        self.write()

    def recovers(self):
        """Nobody commits any more, and all the same everything arrives; then it ends, and the replica is right."""
        harness.wait_for(lambda: self.status()["lag_ms"] == 0, "catching up by itself", timeout=90)
        status = self.status()
        assert status["last_error"] is None or status["retries"] > 0, status
        self.txid = self.sync(30)
        self.shell.finish()
        harness.run([harness.CLI, "restore", f"file://{self.replica}", self.restored])
        with sqlite3.connect(self.database) as c:
            c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        c.close()
        assert self.database.read_bytes() == self.restored.read_bytes()


JOURNALS = pytest.mark.parametrize("journal", ["WAL", "DELETE"])


@JOURNALS
def test_folder_that_vanishes_for_a_while(extension, process, tmp_path, replica, journal):
    app = Application(process, extension, tmp_path, replica, journal)
    away = tmp_path / "away"
    replica.rename(away)
    app.suffers(["No such file"])
    assert not replica.exists(), "an unmounted disk must not come back empty"
    away.rename(replica)
    app.recovers()


@JOURNALS
def test_folder_that_is_full_for_a_while(extension, process, tmp_path, replica, journal):
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        ballast = tmp_path / "disk" / "ballast"
        app = Application(process, extension, tmp_path, tmp_path / "disk" / "replica", journal)
        with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        app.suffers(["No space left"])
        ballast.unlink()
        app.recovers()


@JOURNALS
def test_folder_that_is_read_only_for_a_while(extension, process, tmp_path, journal):
    disk = tmp_path / "disk"
    with mounted(disk, "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        app = Application(process, extension, tmp_path, disk / "replica", journal)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        app.suffers(["Read-only file system"])
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        app.recovers()


@JOURNALS
@pytest.mark.parametrize("what", ["files", "folders"])
def test_replica_that_was_emptied_starts_over_at_one(extension, process, tmp_path, replica, journal, what):
    """Level-0 1-1 holds all pages, the old position is told, and nobody has to do anything."""
    app = Application(process, extension, tmp_path, replica, journal)
    assert app.txid > 1 or app.sync(30) >= 1
    if what == "folders":
        shutil.rmtree(replica / "ltx")
    else:
        for file in (replica / "ltx" / "0").iterdir():
            file.unlink()
    app.write()
    harness.wait_for(lambda: (replica / "ltx" / "0" / f"{1:016x}-{1:016x}.ltx").exists(), "a new 1-1")
    assert "start" in app.status()["last_event"], app.status()
    app.recovers()
    names = sorted(file.name for file in (replica / "ltx" / "0").iterdir())
    assert names[0] == f"{1:016x}-{1:016x}.ltx"
    assert names == [f"{txid:016x}-{txid:016x}.ltx" for txid in range(1, app.txid + 1)]


@JOURNALS
def test_replica_emptied_while_nobody_writes_starts_over_with_the_next_open(extension, process, tmp_path, replica, journal):
    app = Application(process, extension, tmp_path, replica, journal)
    app.shell.finish()
    shutil.rmtree(replica / "ltx")
    app.shell = Shell(process, extension, f"file:{app.database}?vfs=replvfs&replica=file://{replica}")
    app.txid = app.sync(30)
    app.recovers()
    assert (replica / "ltx" / "0" / f"{1:016x}-{1:016x}.ltx").exists()
