"""Two copies of one database at one replica, of which one wins."""

import json
import shutil
import sqlite3

import pytest

import databases
import harness
from databases import connect, one, plain, status, sync
from machines import insert


def content(c):
    return [c.execute("SELECT * FROM t ORDER BY id").fetchall(), c.execute("SELECT name, sql FROM sqlite_schema ORDER BY name").fetchall()]


class Fork:
    """Two copies of one database at one replica: `loser` is open, and `winner` has gone on."""

    def __init__(self, folder, replica, shell):
        self.folder, self.replica, self.start = folder, replica, shell
        self.loser, self.winner = folder / "loser.db", folder / "winner.db"
        self.log = folder / "loser.db-replica"

    def begin(self, journal):
        c = connect(self.loser, self.replica)
        one(c, f"PRAGMA journal_mode={journal}")
        c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        c.execute(insert(20))
        txid = sync(c)
        c.close()
        shutil.copy2(self.loser, self.winner)
        shutil.copytree(self.log, self.folder / "winner.db-replica")
        return txid

    def shell(self, database, **parameters):
        """Another process with a database open."""
        environment = self.replica.server.environment() if hasattr(self.replica, "server") else None
        return self.start(databases.uri(database, self.replica, **parameters), environment)

    def win(self, *statements):
        """The winner commits, a group a statement; what it then holds."""
        shell = self.shell(self.winner)
        for statement in statements:
            assert isinstance(shell.ask(statement), list)
            assert isinstance(shell.sync(), int)
        shell.finish()
        c = plain(self.winner)
        held = content(c)
        c.close()
        return held

    def lose(self, c, *statements):
        """Commits that another writer was faster than; what the loser then holds."""
        for statement in statements:
            c.execute(statement)
        with pytest.raises(sqlite3.OperationalError, match=r"another writer|SELECT replica_rejoin\(\)"):
            sync(c)
        assert status(c)["state"] == "Fenced" and "SELECT replica_rejoin()" in status(c)["last_error"]
        return content(c)

    def restored(self, folder, name):
        """The saved tail, restored by the program from its folder alone."""
        target = self.folder / name
        harness.run([harness.CLI, "restore", databases.url(folder), target])
        c = plain(target)
        assert one(c, "PRAGMA integrity_check") == "ok"
        held = content(c)
        c.close()
        return held


def rejoin(c):
    return json.loads(one(c, "SELECT replica_rejoin()"))
