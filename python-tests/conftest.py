"""Fixtures: the extension, the peers, folders, writers."""

import http.server
import itertools
import os
import threading

import pytest

import harness
import s3_servers
from fork import Fork
from nodes import Nodes
from shell import Shell

_places = itertools.count()

# What the extension in this process needs to reach a bucket of the tests, and nothing else that is set on this machine.
for _name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[_name]
os.environ.update(s3_servers.KEYS)


@pytest.fixture(scope="session")
def extension():
    """Path of the extension."""
    if not harness.EXTENSION.exists():
        pytest.fail(f"{harness.EXTENSION} does not exist: run make")
    return harness.EXTENSION


@pytest.fixture(scope="session")
def litestream():
    """Path of the real litestream program."""
    assert harness.LITESTREAM.exists(), "run make venv"
    return harness.LITESTREAM


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts S3 servers by the name of their function, each once, and ends them with the session."""
    started = {}

    def once(name):
        if name not in started:
            started[name] = getattr(s3_servers, name)(tmp_path_factory.mktemp(name))
        return started[name]

    yield once
    for server in started.values():
        server.stop()


@pytest.fixture
def replica(request, tmp_path):
    """A replica folder that does not exist yet; or, as the test's parameter says, an empty place in a server's bucket."""
    kind = getattr(request, "param", "folder")
    if kind == "folder":
        return tmp_path / "replica"
    return s3_servers.Bucket(request.getfixturevalue("start")(kind), f"tests/{next(_places)}")


@pytest.fixture
def process():
    """Starts `harness.Process`es that end with the test."""
    started = []

    def start(*arguments, **options):
        child = harness.Process(*arguments, **options)
        started.append(child)
        return child

    yield start
    for child in started:
        child.__exit__()


@pytest.fixture
def nodes(tmp_path, replica, extension, process):
    """Nodes a, b, ... of one replica, each with a database of its own."""
    return Nodes(tmp_path, replica, extension, process)


@pytest.fixture
def fork(tmp_path, replica, extension, process):
    """A loser and a winner of one replica."""
    return Fork(tmp_path, replica, lambda uri, environment: Shell(process, extension, uri, env=environment))


@pytest.fixture
def web():
    """Starts web servers of this process that answer by a handler, or `answer(method, path, headers)`: status, headers, text."""
    started = []

    def start(answer=None, handler=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do(self):
                status, headers, text = answer(self.command, self.path, self.headers)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": len(text)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_PUT = do_HEAD = do

            def log_message(self, *_):
                pass

        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler or Handler)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        started.append(web)
        return f"http://127.0.0.1:{web.server_port}"

    yield start
    for web in started:
        web.shutdown()
        web.server_close()
