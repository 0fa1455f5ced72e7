"""The program whose calls fail (`faults.py`): one piece of work each, told step by step on its output."""

import json
import os
import sqlite3
import subprocess
import sys

import databases
from power_host import digest


def tell(**what):
    print(json.dumps(what), flush=True)


class Host:
    def __init__(self, folder, config):
        self.folder, self.config, self.number = folder, config, config.get("before", 0)
        self.returned = 0
        self.database, self.replica = f"{folder}/db", f"{folder}/replica"
        self.parameters = {
            "replica_interval": "0",
            "replica_durability": config["durability"],
            "replica_sync_timeout": "1s",
            "replica_flush_timeout": "1s",
            "replica_levels": "off,off,off",
            **config.get("settings", {}),
        }

    def open(self):
        """A connection; None where the open is refused, which is told."""
        try:
            connection = databases.connect(self.database, self.replica, **self.parameters)
            connection.execute("PRAGMA page_size=1024")
            connection.execute(f"PRAGMA journal_mode={self.config['journal']}").fetchall()
            connection.execute("PRAGMA wal_autocheckpoint=12")
            return connection
        except sqlite3.Error as error:
            tell(step="open", error=str(error))
            return None

    def commit(self, connection, *statements):
        """One transaction. Plain SQLite's own answer to a fault in its files is an error; the state is then as before, or, for
        a COMMIT that could not say so, after."""
        self.number += 1
        try:
            connection.execute("BEGIN IMMEDIATE")
            for sql in statements:
                connection.execute(sql)
            connection.execute("CREATE TABLE IF NOT EXISTS n(k)")
            connection.execute("DELETE FROM n")
            connection.execute(f"INSERT INTO n VALUES ({self.number})")
            tell(step="begun", number=self.number, digest=digest(connection))
            connection.execute("COMMIT")
            tell(step="commit", number=self.number)
            self.returned = self.number
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            tell(step="commit", number=self.number, error=str(error), code=code)
            if connection.in_transaction:
                try:
                    connection.execute("ROLLBACK")
                except sqlite3.Error as again:
                    tell(step="rollback", error=str(again))

    def sync(self, connection, seconds):
        try:
            tell(step="synced", number=self.returned, txid=databases.sync(connection, seconds))
        except sqlite3.Error as error:
            tell(step="sync", error=str(error))

    def go_on(self, connection, seconds, *statements):
        """One more commit, which the replica is to have within so many seconds, and a close."""
        if connection:
            self.commit(connection, *statements)
            self.sync(connection, seconds)
            connection.close()

    def heal(self):
        """No call fails any more."""
        with open(f"{self.folder}/marks", "a") as marks:
            marks.write("heal\n")
        tell(step="healed")

    def capture(self):
        """Commits in WAL or rollback mode, and how they get to the replica; once more after the faults have ended."""
        connection = self.open()
        for opened in range(2):
            if connection:
                self.commit(connection, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)")
                for size in (20, 3000, 60):
                    self.commit(connection, f"INSERT INTO t(x) VALUES (randomblob({size}))", "UPDATE t SET x = randomblob(700) WHERE id = 1")
                self.sync(connection, 1)
                self.commit(connection, "DELETE FROM t WHERE id = 2")
                if not opened:
                    connection.close()
            if not opened:
                connection = self.open()
        self.heal()
        self.go_on(connection or self.open(), 20, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)", "INSERT INTO t(x) VALUES (1)")

    def forward(self):
        """A database behind its replica is rolled forward when it is opened, and goes on from there."""
        self.go_on(self.open(), 1, "INSERT INTO t(x) VALUES (1)")
        self.heal()
        self.go_on(self.open(), 20, "INSERT INTO t(x) VALUES (2)")

    def lease(self):
        """The same with a lease, which is taken, renewed and handed back."""
        connection = self.open()
        if connection:
            self.ask(connection, "SELECT replica_lease_acquire(NULL, 1)")
            self.commit(connection, "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, x)")
            self.ask(connection, "SELECT replica_lease_renew()")
            self.commit(connection, "INSERT INTO t(x) VALUES (1)")
            self.ask(connection, "SELECT replica_lease_release()")
            self.ask(connection, "SELECT replica_lease_acquire(NULL, 1)")
            self.commit(connection, "INSERT INTO t(x) VALUES (2)")
            connection.close()
        self.heal()

    def ask(self, connection, sql):
        try:
            connection.execute(sql).fetchall()
        except sqlite3.Error as error:
            tell(step=sql, error=str(error))

    def compact(self):
        short = ["--levels", "100ms,1s,2s", "--snapshot-interval", "1s", "--l0-retention", "1ms", "--retention", "1s"]
        self.program("compact", f"file://{self.replica}", *short)
        self.heal()

    def restore(self):
        self.program("restore", f"file://{self.replica}", f"{self.folder}/restored")
        self.heal()

    def program(self, *words):
        done = subprocess.run([self.config["program"], *words], capture_output=True, text=True, timeout=60)
        tell(step=words[0], code=done.returncode, error=done.stderr.strip()[-300:])


if __name__ == "__main__":
    config = json.loads(sys.argv[2])
    databases.load()
    host = Host(sys.argv[1], config)
    getattr(host, config["work"])()
    tell(step="end")
