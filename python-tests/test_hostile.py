"""Databases and journals that mean harm: the host lives, takes no memory for it, and hears why."""

import json
import sqlite3
import struct
import subprocess

import pytest

import databases
import harness
from s3_servers import KEYS

RESIDENT_MAX_MIB = 400

# argv: extension, URI. Prints what came of it, and the most memory that was used.
OPEN = """
import json, resource, sqlite3, sys
extension, uri = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
said = []
try:
    c = sqlite3.connect(uri, uri=True, isolation_level=None)
    for sql in ("SELECT count(*) FROM t", "INSERT INTO t(x) VALUES ('more')", "SELECT replica_sync(3)", "SELECT replica_error()"):
        try:
            said.append(c.execute(sql).fetchall())
        except sqlite3.Error as error:
            said.append(str(error))
    c.close()
except sqlite3.Error as error:
    said.append(str(error))
print(json.dumps([said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10]))
"""

PAGE = 512
MOST = 0xFFFFFFFE


def wal_checksum(state, content):
    a, b = state
    for one, other in struct.iter_unpack("<II", content):
        a = (a + one + b) & 0xFFFFFFFF
        b = (b + other + a) & 0xFFFFFFFF
    return a, b


def wal(*frames):
    """Frames of (pgno, page count, page), as SQLite would have written them."""
    head = struct.pack(">IIIIII", 0x377F0682, 3007000, PAGE, 0, 11, 22)
    state = wal_checksum((0, 0), head)
    out = head + struct.pack(">II", *state)
    for pgno, count, page in frames:
        start = struct.pack(">II", pgno, count)
        state = wal_checksum(wal_checksum(state, start), page)
        out += start + struct.pack(">IIII", 11, 22, *state) + page
    return out


def journal(count, *pages):
    """A hot journal of a database that had `count` pages."""
    out = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", len(pages), 7, count, 512, PAGE)
    out = out.ljust(512, b"\0")
    for pgno, page in pages:
        total = 7 + sum(page[at] for at in range(PAGE - 200, 0, -200))
        out += struct.pack(">I", pgno) + page + struct.pack(">I", total & 0xFFFFFFFF)
    return out


def page(database, number):
    return database.read_bytes()[(number - 1) * PAGE : number * PAGE]


def beside(database, suffix, content):
    database.with_name(database.name + suffix).write_bytes(content)


def header_that_lies(database):
    content = bytearray(database.read_bytes())
    content[28:32] = struct.pack(">I", MOST)
    database.write_bytes(content)


HARM = {
    "header": ("delete", header_that_lies),
    "wal commit": ("wal", lambda d: beside(d, "-wal", wal((2, MOST, page(d, 2))))),
    "wal page": ("wal", lambda d: beside(d, "-wal", wal((MOST - 1, MOST, page(d, 2))))),
    "journal": ("delete", lambda d: beside(d, "-journal", journal(MOST, (1, page(d, 1)), (2, page(d, 2))))),
    "journal of nothing": ("delete", lambda d: beside(d, "-journal", journal(0, (1, page(d, 1))))),
}


def opened(extension, uri):
    done = subprocess.run(
        [harness.PYTHON, "-c", OPEN, extension, uri], env=harness.clean_environment(**KEYS), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"the host died: {done.returncode}\n{done.stderr[-3000:]}"
    return json.loads(done.stdout)


@pytest.mark.parametrize("followed", [False, True], ids=["unknown", "followed"])
@pytest.mark.parametrize("harm", HARM)
def test_a_database_that_lies_about_its_size_takes_no_memory_and_kills_nobody(extension, tmp_path, replica, harm, followed):
    mode, spoil = HARM[harm]
    database = tmp_path / "app.db"
    c = sqlite3.connect(database, isolation_level=None)
    c.execute(f"PRAGMA page_size={PAGE}")
    c.execute(f"PRAGMA journal_mode={mode}")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    c.executemany("INSERT INTO t(x) VALUES (?)", [("a" * 100,)] * 50)
    c.close()
    uri = databases.uri(database, replica, replica_interval="0", replica_flush_timeout="100ms")
    if followed:
        opened(extension, uri)
    spoil(database)
    said, resident = opened(extension, uri)
    assert resident < RESIDENT_MAX_MIB, f"{resident} MiB, and {said}"
    # Whatever SQLite makes of it; where we cannot follow, it is told.
    told = [answer for answer in said if "hold no more than" in str(answer)]
    synced = [answer for answer in said[2:3] if isinstance(answer, list)]
    assert told or synced or "malformed" in str(said) or "not a database" in str(said), said
