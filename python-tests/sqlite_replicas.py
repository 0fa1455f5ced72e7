"""What the replicas of a finished test file hold, beside the databases that the file left.

A database that the VFS had open is compared with what its replica restores to: the database as SQLite's next reader finds it,
its journal played back and its WAL checkpointed, byte for byte. Where a test wrote to the file by hand after the last close,
or killed its process, nobody could capture that; then the database is opened once more through the VFS, closed, and compared.
"""

import collections
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys

MAGIC = b"SQLite format 3\0"
# Opens each database as an application does that reads.
LOOK = """
import sqlite3, sys
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(sys.argv[1])
for path in sys.argv[2:]:
    database = sqlite3.connect(path)
    try:
        database.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.DatabaseError:
        pass  # corrupt on purpose
    database.close()
"""


def newest_places(replicas):
    """Path of a database -> folder of its newest replica, where the file at that path is still the one it is for."""
    found = {}
    for names in sorted(replicas.iterdir()):
        numbers = [int(entry.name) for entry in names.iterdir() if entry.name.isdigit()]
        if not numbers:
            continue
        path = pathlib.Path(os.fsdecode((names / "path").read_bytes()))
        place = names / str(max(numbers))
        record = place / "file"
        if not path.is_file() or path.is_symlink():
            continue
        if record.exists() and record.read_text().split()[1] != str(path.stat().st_ino):
            continue
        found[path] = place
    return found


def has_history(place):
    return any((place / "replica" / "ltx").rglob("*.ltx"))


def as_read(path, scratch):
    """The bytes of the database as the next reader finds it; `None`: SQLite does not take it for a database."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    copy = scratch / path.name
    for suffix in ("", "-wal", "-journal"):
        beside = path.with_name(path.name + suffix)
        # A test puts folders there.
        if beside.is_file():
            shutil.copy(beside, scratch / beside.name)
    if len(list(scratch.iterdir())) > 1:
        try:
            database = sqlite3.connect(copy)
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            database.execute("SELECT count(*) FROM sqlite_master").fetchall()
            database.close()
        except sqlite3.DatabaseError:
            return None
    data = copy.read_bytes()
    return data if data.startswith(MAGIC) else None


def is_same(data, restored):
    """Pages past the end that page 1 tells are no part of the database."""
    if data == restored:
        return True
    size = int.from_bytes(data[16:18], "big")
    pages = int.from_bytes(data[28:32], "big")
    size = 65536 if size == 1 else size
    return data[24:28] == data[92:96] and data[: pages * size] == restored


class Compared(collections.Counter):
    """What came of it: `equal` at once, `looked` after another open, `invalid` no database; `wrong` must be empty."""

    def __init__(self):
        super().__init__()
        self.wrong = []
        self.late = []


def compare(replicas, scratch, program, look):
    """Compares every database with its replica. `look(paths)` opens them through the VFS."""
    compared, left = Compared(), {}
    for path, place in newest_places(replicas).items():
        data = as_read(path, scratch)
        if data is None:
            compared["invalid"] += 1
        elif restores_to(place, data, scratch, program):
            compared["equal"] += 1
        else:
            left[path] = place
    if left:
        look(left)
    for path, place in left.items():
        place = newest_places(replicas).get(path, place)
        if restores_to(place, as_read(path, scratch), scratch, program):
            compared["looked"] += 1
            compared.late.append(path.name)
        else:
            compared.wrong.append(f"{path.name}: {place}")
    return compared


def restores_to(place, data, scratch, program):
    if not has_history(place) or data is None:
        return False
    output = scratch / "restored"
    output.unlink(missing_ok=True)
    done = subprocess.run([program, "restore", f"file://{place}/replica", output], capture_output=True, text=True)
    if done.returncode:
        print(f"restore of {place}: {done.stderr.strip()}", file=sys.stderr)
        return False
    return is_same(data, output.read_bytes())
