"""The program whose power is cut (`power_loss.py`): commits that are told apart by what they leave, each told in `marks`."""

import hashlib
import json
import os
import sqlite3
import sys
import time

# Rows as wide as these make a commit several pages of 1,024 bytes.
ROWS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<{0}) SELECT randomblob({1}) FROM n"


def digest(connection):
    """What the database holds, in a few letters; None: nothing."""
    tables = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    if not tables:
        return None
    made = hashlib.blake2b(repr(tables).encode(), digest_size=8)
    for name, sql in tables:
        if sql.startswith("CREATE TABLE"):
            for row in connection.execute(f"SELECT * FROM {name} ORDER BY 1"):
                made.update(repr(row).encode())
    return made.hexdigest()


class Host:
    def __init__(self, folder, config):
        self.folder, self.config, self.commits = folder, config, 0
        self.marks = os.open(f"{folder}/marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.connection = None

    def mark(self, *words):
        os.write(self.marks, (" ".join(map(str, words)) + "\n").encode())

    def open(self):
        config = self.config
        uri = f"file:{self.folder}/db?"
        if config["replicated"]:
            uri += f"vfs=replvfs&replica=file://{self.folder}/replica&replica_interval={config['interval']}"
            uri += f"&replica_durability={config['durability']}"
        self.connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=20)
        self.run("PRAGMA page_size=1024")
        self.run(f"PRAGMA journal_mode={config['journal']}")
        self.run(f"PRAGMA synchronous={config['synchronous']}")
        self.run("PRAGMA cache_size=5")
        self.run("PRAGMA wal_autocheckpoint=12")

    def run(self, sql):
        return self.connection.execute(sql).fetchall()

    def commit(self, *statements):
        """One transaction, which also counts up `n`."""
        self.commits += 1
        self.mark("begin", self.commits)
        self.run("BEGIN")
        for sql in statements:
            self.run(sql)
        self.run("CREATE TABLE IF NOT EXISTS n(k)")
        self.run("DELETE FROM n")
        self.run(f"INSERT INTO n VALUES ({self.commits})")
        self.run("COMMIT")
        self.mark("commit", self.commits, digest(self.connection))
        time.sleep(self.config["pause"])

    def sync(self):
        if self.config["replicated"]:
            self.run("SELECT replica_sync(20)")
            self.mark("synced", self.commits)

    def close(self):
        self.connection.close()
        self.mark("closed")

    def checkpoint(self, kind):
        if self.config["journal"] == "wal":
            self.run(f"PRAGMA wal_checkpoint({kind})")

    def insert(self, rows, size=300):
        self.commit(f"INSERT INTO t(x) {ROWS.format(rows, size)}")

    def update(self, where="id % 3 = 1"):
        self.commit(f"UPDATE t SET x = randomblob(300) WHERE {where}")

    def work(self):
        self.open()
        self.commit("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        self.insert(12)
        self.update()
        self.sync()
        self.update("id = 2")
        self.checkpoint("PASSIVE")
        self.update("id = 3")
        self.insert(25)
        self.commit("DELETE FROM t WHERE id % 2 = 0", "CREATE INDEX i ON t(x)")
        self.update("id = 5")
        self.checkpoint("RESTART")
        self.update("id = 7")
        self.sync()
        self.update("id = 9")
        self.close()
        self.open()
        self.update("id = 1")
        self.update("id = 3")
        self.run("VACUUM")
        self.update("id = 5")
        self.checkpoint("TRUNCATE")
        self.update("id = 7")
        self.commit("DROP INDEX i", "DELETE FROM t WHERE id > 20")
        self.sync()
        self.insert(2)
        self.close()
        self.open()
        self.sync()
        self.close()
        self.open()
        self.update("id = 3")
        self.insert(3)
        self.update()
        self.update("id = 5")
        self.sync()
        self.update("id = 7")
        self.mark("end")
        os._exit(0)


if __name__ == "__main__":
    config = json.loads(sys.argv[2])
    if config["replicated"]:
        loader = sqlite3.connect(":memory:")
        loader.enable_load_extension(True)
        loader.load_extension(config["extension"])
        loader.close()
    Host(sys.argv[1], config).work()
