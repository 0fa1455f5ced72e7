"""Databases, journals and stores that mean harm: the host lives, takes no memory for it, and hears why."""

import http.server
import itertools
import json
import os
import resource
import sqlite3
import struct
import subprocess

import pytest

import databases
import harness
from s3_servers import KEYS

# More than any of this may take; the program's code and stacks are a part of it.
MEMORY_MAX = 2 << 30
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


class Hostile(http.server.BaseHTTPRequestHandler):
    """A store that answers as `way` says; `asked` counts."""

    protocol_version = "HTTP/1.1"
    way, asked = None, None

    def do_GET(self):
        next(self.asked)
        try:
            type(self).way(self)
        except OSError:
            pass
        self.close_connection = True

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_):
        pass

    def send(self, raw):
        self.wfile.write(raw)

    def xml(self, body, **headers):
        self.send_response(200)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body.encode())


def forever(handler, piece):
    while True:
        handler.send(piece)


NAME = "0000000000000001-0000000000000001.ltx"


def listed(size, more="", key=f"x/0000/{NAME}"):
    return (
        f"<R><IsTruncated>false</IsTruncated><Contents><Key>{key}</Key><Size>{size}</Size><ETag>&quot;a&quot;</ETag>"
        f"<LastModified>2026-11-21T06:58:22.000Z</LastModified></Contents>{more}</R>"
    )


def endless_text(handler):
    handler.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<R>")
    forever(handler, b"<a>x</a>" * 8192)


def endless_chunks(handler):
    handler.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    forever(handler, b"8000\r\n" + b"x" * 0x8000 + b"\r\n")


def endless_listing(handler):
    token = f"{handler.path[-40:]}{os.urandom(4).hex()}".replace("&", "")[-30:]
    handler.xml(f"<R><IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken></R>")


def same_listing(handler):
    handler.xml(listed(100).replace("false", "true").replace("</R>", "<NextContinuationToken>t</NextContinuationToken></R>"))


def endless_header(handler):
    handler.send(b"HTTP/1.1 200 OK\r\n")
    forever(handler, b"x-a: " + b"y" * 4096 + b"\r\n")


def long_header(handler):
    handler.send(b"HTTP/1.1 200 OK\r\nx-a: " + b"y" * (8 << 20) + b"\r\nContent-Length: 0\r\n\r\n")


def longer_than_said(handler):
    handler.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + listed(10).encode())


def shorter_than_said(handler):
    handler.send(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + listed(10).encode())


def no_http(handler):
    handler.send(b"\x16\x03\x01 nothing of the kind\r\n\r\n")


def deep(handler):
    handler.xml("<a>" * 500_000)


def with_object(size, answer):
    def way(handler):
        if "list-type" in handler.path:
            return handler.xml(listed(size))
        return answer(handler)

    return way


def endless_object(handler):
    handler.send(b"HTTP/1.1 200 OK\r\nETag: \"a\"\r\nConnection: close\r\n\r\n")
    forever(handler, b"LTX1" * 16384)


def no_object(handler):
    handler.send(b"HTTP/1.1 206 Partial Content\r\nETag: \"a\"\r\nContent-Length: 0\r\n\r\n")


WAYS = {
    "endless text": endless_text,
    "endless chunks": endless_chunks,
    "endless listing": endless_listing,
    "the same page again": same_listing,
    "endless header": endless_header,
    "long header": long_header,
    "longer than said": longer_than_said,
    "shorter than said": shorter_than_said,
    "no HTTP": no_http,
    "elements without end": deep,
    "an object without end": with_object(1000, endless_object),
    "an object of all bytes there are": with_object((1 << 64) - 1, no_object),
    "a large object that is none": with_object(1 << 45, no_object),
    "an object that is empty": with_object(1000, no_object),
}


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MAX, MEMORY_MAX))


def ask(arguments):
    environment = harness.clean_environment(**KEYS, HOME="/nonexistent")
    done = subprocess.run(
        [harness.CLI, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=100, preexec_fn=limit_memory
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_a_store_that_answers_anything_is_given_up_with_its_reason(web, tmp_path, way):
    handler = type("Handler", (Hostile,), {"way": staticmethod(WAYS[way]), "asked": itertools.count()})
    store = web(handler=handler)
    code, printed = ask(["restore", f"s3://bkt/x?endpoint={store}&region=r", tmp_path / "copy.db"])
    assert code == 1 and "panicked" not in printed and len(printed) < 4000, (code, printed[-4000:])
    assert list(tmp_path.iterdir()) == []
    assert next(handler.asked) < 2000


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_takes_the_signature_elsewhere(web, tmp_path, code):
    elsewhere = []

    def other(method, path, headers):
        elsewhere.append((method, path))
        return 200, {}, listed(0)

    other = web(other)
    store = web(lambda method, path, headers: (code, {"Location": f"{other}{path}"}, ""))
    result, printed = ask(["restore", f"s3://bkt/x?endpoint={store}&region=r", tmp_path / "copy.db"])
    assert result == 1 and str(code) in printed, printed
    assert elsewhere == []


def test_keys_of_a_listing_name_nothing_outside(web, tmp_path):
    keys = [f"x/0000/../../{NAME}", f"/etc/0000/{NAME}", f"x/0000/{NAME}&#10;", f"../x/0000/{NAME}", f"x/000a/{NAME}", f"x/0000/{NAME}/y"]
    for key in keys:
        store = web(lambda *_, key=key: (200, {}, listed(100, key=key)))
        code, printed = ask(["restore", f"s3://bkt/x?endpoint={store}&region=r", tmp_path / "copy.db"])
        assert code == 1 and "panicked" not in printed and "damaged" not in printed, (key, printed)
        assert list(tmp_path.iterdir()) == []
