"""Processes with a database each that would write to one replica."""

import sqlite3

import databases
from shell import Shell


class Nodes:
    """Processes that would write to one replica."""

    def __init__(self, folder, replica, extension, process):
        self.folder, self.replica, self.extension, self.process = folder, replica, extension, process

    def uri(self, name, **parameters):
        (self.folder / name).mkdir(exist_ok=True)
        given = {"replica_lease": "required", "replica_if_missing": "restore", "replica_interval": "0", **parameters}
        return databases.uri(self.folder / name / "app.db", self.replica, **given)

    def shell(self, name, **parameters):
        environment = self.replica.server.environment() if hasattr(self.replica, "server") else None
        shell = Shell(self.process, self.extension, self.uri(name, **parameters), env=environment)
        shell.ask("PRAGMA busy_timeout=100")
        return shell

    def connect(self, name, **parameters):
        databases.load()
        return sqlite3.connect(self.uri(name, **parameters), uri=True, isolation_level=None, timeout=0.1)

    def first(self, **parameters):
        """Node a, which holds the lease and has written a row that is acknowledged."""
        a = self.shell("a", **parameters)
        if parameters.get("replica_lease", "required") == "required":
            assert a.ask("SELECT replica_lease_acquire()") == [[1]]
        a.ask("PRAGMA journal_mode=WAL")
        assert a.ask("CREATE TABLE t(x)") == []
        assert a.ask("INSERT INTO t VALUES ('a')") == []
        assert isinstance(a.sync(), int)
        return a

    def restored(self):
        """The rows that the replica is restored to."""
        target = self.folder / "restored.db"
        target.unlink(missing_ok=True)
        databases.load()
        loader = sqlite3.connect(":memory:")
        loader.execute("SELECT replica_restore(?, ?)", (databases.url(self.replica), str(target))).fetchall()
        loader.execute("SELECT replica_verify(?)", (databases.url(self.replica),)).fetchall()
        loader.close()
        connection = sqlite3.connect(target)
        found = connection.execute("SELECT x FROM t ORDER BY rowid").fetchall()
        assert databases.one(connection, "PRAGMA integrity_check") == "ok"
        connection.close()
        return found


def rows(shell):
    return [value for (value,) in shell.ask("SELECT x FROM t ORDER BY rowid")]
