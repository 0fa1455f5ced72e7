"""Looks at what a loss of power left (`power_loss.py`): as plain SQLite, as a restore, and as the extension at its next open.

A program of its own that goes from state to state: each line names a folder, each answer is one line of JSON.
"""

import json
import os
import shutil
import sqlite3
import sys

import databases
from power_host import digest

SIDES = ["", "-wal", "-journal"]
# What a damaged database gives is not always text, and then Python cannot read SQLite's message.
WRONG = (sqlite3.DatabaseError, UnicodeDecodeError)


def plain(folder):
    """The digest of the database as plain SQLite finds it in a copy; or what is wrong with it."""
    copy = folder / "plain"
    copy.mkdir()
    for side in SIDES:
        if (folder / f"db{side}").exists():
            shutil.copy(folder / f"db{side}", copy / f"db{side}")
    return digest_of(copy / "db")


def digest_of(path):
    if not path.exists():
        return {"digest": None}
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("PRAGMA integrity_check(1)").fetchall()
        return {"digest": digest(connection)} if found == [("ok",)] else {"wrong": found[0][0]}
    except WRONG as error:
        return {"wrong": str(error)}
    finally:
        connection.close()


def restored(folder, name):
    """The digest of what the replica restores to."""
    path = folder / name
    try:
        txid = databases.restore(folder / "replica", path, '{"if_replica_exists": true}')
    except sqlite3.OperationalError as error:
        return {"wrong": str(error)}
    return {"txid": txid, **digest_of(path)}


def reopened(folder, config):
    """What the extension makes of it, and whether replica and database meet after one more commit."""
    found = {}
    parameters = {"replica_interval": "0", "replica_durability": config["durability"], **config.get("open", {})}
    try:
        connection = databases.connect(folder / "db", folder / "replica", **parameters)
    except sqlite3.OperationalError as error:
        # Nobody but the user knows whether a database that is gone is to come back.
        if "is missing or empty" not in str(error) or "replica_if_missing" in parameters:
            return {"refused": str(error)}
        again = reopened(folder, {**config, "open": {"replica_if_missing": "restore"}})
        return {"restored_at_open": again["digest"]} if "digest" in again and "wrong" not in again else again
    try:
        found["digest"] = digest(connection)
        found["event"] = databases.status(connection)["last_event"]
        connection.execute("CREATE TABLE IF NOT EXISTS after(x)")
        connection.execute("INSERT INTO after VALUES (1)")
        databases.sync(connection, 20)
    except WRONG as error:
        # Of a database that is corrupt nothing else can be asked.
        is_corrupt = isinstance(error, UnicodeDecodeError) or "malformed" in str(error) or "not a database" in str(error)
        row = {} if is_corrupt else databases.status(connection) or {}
        found["wrong"] = f"{error}; {row.get('state')}: {row.get('last_error')}"
    connection.close()
    if "wrong" not in found:
        again = restored(folder, "again")
        if "wrong" in again:
            found["wrong"] = again["wrong"]
        # What a transaction that was never committed left behind the end, SQLite does not cut off.
        elif not (folder / "db").read_bytes().startswith((folder / "again").read_bytes()):
            found["wrong"] = "the replica does not restore to the database"
    return found


def main():
    databases.load()
    for line in sys.stdin:
        asked = json.loads(line)
        folder = databases.harness.Path(asked["folder"])
        answer = {"plain": plain(folder)}
        if asked["config"]["replicated"]:
            answer["restored"] = restored(folder, "restored") if (folder / "replica").exists() else {"digest": None}
            answer["reopened"] = reopened(folder, asked["config"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.setdefault("TMPDIR", "/dev/shm")
    main()
