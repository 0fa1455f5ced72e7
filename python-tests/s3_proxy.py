"""A proxy on this machine in front of a test server: it delays, loses and refuses requests by plan, and counts.

Signatures cover the Host header, so every request goes on byte for byte as it came. What can happen to one:

    reset     the connection is reset; the server never hears of it
    silence   nothing is answered for `silence` seconds, nor does the server hear of it
    cut       the server does it, and its answer is lost with the connection
    mute      the server does it, and nothing is answered for `silence` seconds
    torn      half of the server's answer, then the connection is reset
    500, 503, 429   are answered in the server's stead, as a store does: its own error, slow down, too many requests

A plan is a function of a `Request` that returns one of these names, an `Answer` of its own, or None. It is asked by many
threads at once.
"""

import collections
import contextlib
import email.utils
import http.client
import random
import select
import socket
import socketserver
import struct
import threading
import time
import urllib.parse

from s3_servers import REGION

HEAD_BYTES_MAX = 1 << 16
# Servers end connections that were idle for long: an older one is not used again, because nothing is ever sent twice.
IDLE_MAX = 0.5
# Longest the server may take.
SERVER_MAX = 60


class Request(collections.namedtuple("Request", "method target times size")):
    """One request: `target` is its path and query, `times` how often it was made before, `size` that of its body."""

    @property
    def key(self):
        """The key without the bucket, empty for a listing."""
        path = urllib.parse.unquote(self.target.split("?")[0])
        return path.split("/", 2)[2] if path.count("/") > 1 else ""

    @property
    def is_first_put(self):
        """Of a file of a replica, not of what tries the store out under ever new names."""
        return self.method == "PUT" and self.times == 0 and self.key.endswith(".ltx")


class Answer(collections.namedtuple("Answer", "status code message headers", defaults=("", {}))):
    """What a store answers that refuses."""

    def wire(self, method):
        xml = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>".encode()
        headers = {**self.headers, "Content-Type": "application/xml", "Content-Length": len(xml)}
        head = f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return head.encode() + b"\r\n" + (b"" if method == "HEAD" else xml)


ANSWERS = {
    "500": Answer(500, "InternalError", "We encountered an internal error. Please try again."),
    "503": Answer(503, "SlowDown", "Please reduce your request rate."),
    "429": Answer(429, "TooManyRequests", "Please reduce your request rate."),
}


def seeded(seed, methods=("PUT",), **odds):
    """A plan: each fault by its odds, decided by the seed, the request and how often it came, whatever else is under way.

    A request that is made again and again comes through every third time, so that nobody waits long without luck.
    """

    def plan(request):
        if request.method not in methods or request.times % 3 == 2:
            return None
        dice = random.Random(f"{seed} {request.method} {request.target} {request.times}").random()
        for fault, share in odds.items():
            if dice < share:
                return fault.lstrip("_")
            dice -= share
        return None

    return plan


class Wire:
    """One connection, as heads and bodies of HTTP."""

    def __init__(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.reader = connection.makefile("rb", HEAD_BYTES_MAX)

    def head(self):
        """Its lines as they are, and the headers by their names in lower case; nothing at the end of the connection."""
        lines, headers = [self.reader.readline(HEAD_BYTES_MAX)], {}
        while lines[-1] not in (b"\r\n", b""):
            lines.append(self.reader.readline(HEAD_BYTES_MAX))
            name, _, value = lines[-1].partition(b":")
            headers[name.lower()] = value.strip()
        return (lines, headers) if lines[-1] else ([], {})

    def exactly(self, size):
        data = self.reader.read(size)
        if len(data) < size:
            raise ConnectionError("the peer went away inside a body")
        return data

    def chunks(self):
        while size := int(self.reader.readline(HEAD_BYTES_MAX).split(b";")[0], 16):
            yield self.exactly(size)
            self.reader.readline()
        while self.reader.readline(HEAD_BYTES_MAX) not in (b"\r\n", b""):
            pass

    def close(self):
        # The reader holds the descriptor too.
        self.reader.close()
        self.socket.close()

    def reset(self):
        """The peer hears of a connection that broke, not of one that ended."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class Proxy:
    """In front of `server` (s3_servers.Server without TLS) for as long as its `with` block.

    `latency`: seconds that a request of a method takes at least, by method. `rate`: requests a second; what is beyond it
    is told to slow down. `ahead`: seconds by which the server's clock seems to be ahead. All of them, and `plan`, may be set
    at any time. `applied` counts the faults by name, `requests` the methods, `times` how often each method and target came,
    `unanswered` the puts that the server did and nobody was told of, `under_way` what is not answered yet.
    """

    def __init__(self, server, plan=None, latency=None, rate=None, silence=40):
        self.plan, self.latency, self.rate, self.silence, self.ahead = plan, latency or {}, rate, silence, 0
        self.applied, self.requests, self.unanswered = collections.Counter(), collections.Counter(), 0
        self.under_way = 0
        parts = urllib.parse.urlsplit(server.endpoint)
        assert parts.scheme == "http"
        self._server = (parts.hostname, parts.port)
        self._lock, self.times, self._wires = threading.Lock(), collections.Counter(), set()
        self._second, self._in_second = 0, 0
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                proxy._serve(self.request)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads, block_on_close, request_queue_size = True, False, 256

            def shutdown_request(self, request):
                # The handler closes it, each in its way.
                pass

        self._listener = Listener(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._listener.server_address[1]}"
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()
        with self._lock:
            for wire in self._wires:
                with contextlib.suppress(OSError):
                    wire.socket.shutdown(socket.SHUT_RDWR)

    def url(self, prefix):
        return f"s3://bkt/{prefix}?endpoint={self.endpoint}&region={REGION}"

    def _serve(self, connection):
        wire, upstream = Wire(connection), Upstream(self._server)
        with self._lock:
            self._wires.add(wire)
        try:
            while self._exchange(wire, upstream):
                pass
        except (OSError, ValueError):
            # Either side went away: so does the other one's connection.
            pass
        finally:
            with self._lock:
                self._wires.discard(wire)
            upstream.close()
            with contextlib.suppress(OSError):
                wire.close()

    def _exchange(self, wire, upstream):
        """One request and its answer; False ends the connection."""
        lines, headers = wire.head()
        if not lines:
            return False
        began = time.monotonic()
        if b"expect" in headers:
            wire.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            lines = [line for line in lines if not line.lower().startswith(b"expect:")]
        body = wire.exactly(int(headers.get(b"content-length", 0)))
        with self._lock:
            self.under_way += 1
        try:
            return self._answer(wire, upstream, lines, body, began)
        finally:
            with self._lock:
                self.under_way -= 1

    def _answer(self, wire, upstream, lines, body, began):
        method, target, _ = lines[0].decode().split(" ", 2)
        fault = self._decide(method, target, len(body))
        if fault == "reset":
            return wire.reset()
        if fault == "silence":
            return self._hang(wire)
        if isinstance(fault, Answer):
            wire.socket.sendall(fault.wire(method))
            return True
        answer, status = upstream.ask(b"".join(lines) + body, method, self.ahead)
        if fault in ("cut", "mute"):
            with self._lock:
                self.unanswered += method == "PUT" and 200 <= status < 300
            return wire.reset() if fault == "cut" else self._hang(wire)
        time.sleep(max(0, began + self.latency.get(method, 0) - time.monotonic()))
        if fault == "torn":
            wire.socket.sendall(answer[: len(answer) // 2])
            return wire.reset()
        wire.socket.sendall(answer)
        return True

    def _hang(self, wire):
        """Until the client has had enough, at most `silence` seconds."""
        select.select([wire.socket], [], [], self.silence)
        return False

    def _decide(self, method, target, size):
        with self._lock:
            self.requests[method] += 1
            request = Request(method, target, self.times[method, target], size)
            self.times[method, target] += 1
            second = int(time.monotonic())
            self._in_second = self._in_second + 1 if second == self._second else 1
            self._second = second
            too_fast = self.rate is not None and self._in_second > self.rate
        fault = "503" if too_fast else self.plan and self.plan(request)
        if fault is not None:
            name = str(fault.status) if isinstance(fault, Answer) else fault
            with self._lock:
                self.applied[name] += 1
        return ANSWERS.get(fault, fault) if isinstance(fault, str) else fault


class Upstream:
    """The server's end of one client's connection."""

    def __init__(self, address):
        self.address, self.wire, self.used_at = address, None, 0

    def ask(self, request, method, ahead):
        """The answer as it goes to the client, and its status; its date is so many seconds ahead."""
        if self.wire and time.monotonic() - self.used_at > IDLE_MAX:
            self.close()
        if not self.wire:
            self.wire = Wire(socket.create_connection(self.address, timeout=SERVER_MAX))
        self.wire.socket.sendall(request)
        lines, headers = self.wire.head()
        while lines and lines[0].split(b" ")[1] == b"100":
            lines, headers = self.wire.head()
        if not lines:
            raise ConnectionError("the server went away")
        version, status, *_ = lines[0].split(b" ")
        has_body = method != "HEAD" and status not in (b"204", b"304")
        if not has_body:
            body = b""
        elif headers.get(b"transfer-encoding") == b"chunked":
            body = b"".join(self.wire.chunks())
        elif b"content-length" in headers:
            body = self.wire.exactly(int(headers[b"content-length"]))
        else:
            body = self.wire.reader.read()
        if version != b"HTTP/1.1" or headers.get(b"connection", b"").lower() == b"close":
            self.close()
        self.used_at = time.monotonic()
        dropped = [b"connection:", b"keep-alive:", b"transfer-encoding:", *([b"content-length:"] if has_body else [])]
        if ahead and b"date" in headers:
            dropped.append(b"date:")
        kept = [line for line in lines[1:-1] if not line.lower().startswith(tuple(dropped))]
        if ahead and b"date" in headers:
            told = email.utils.parsedate_to_datetime(headers[b"date"].decode()).timestamp()
            kept.append(b"Date: %s\r\n" % email.utils.formatdate(told + ahead, usegmt=True).encode())
        if has_body:
            kept.append(b"Content-Length: %d\r\n" % len(body))
        first = b"HTTP/1.1 " + lines[0].split(b" ", 1)[1]
        return first + b"".join(kept) + b"\r\n" + body, int(status)

    def close(self):
        if self.wire:
            self.wire.close()
        self.wire = None
