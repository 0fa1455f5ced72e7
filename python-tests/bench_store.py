"""An S3 store in memory, for benchmarks: as fast as its delay, which the test servers are not by the hundred.

    python bench_store.py DELAY_MS

It prints its address, and serves one bucket, `bkt`, until its input ends: put (with If-None-Match), get with a range,
head, delete (with If-Match), and listing. A put is there, and answered, DELAY_MS after it came. Every request is honest:
a name that exists answers 412, what is not there 404, what it does not know 501. Signatures are not checked.
GET /counts answers how many requests of each method there were since the last such question; GET /puts a line for each
put of a level-0 file so far: its key, when it was there (ns since 1970), when its header says it was made (ms).
"""

import asyncio
import bisect
import collections
import email.utils
import hashlib
import socket
import struct
import sys
import time
import urllib.parse
from xml.sax.saxutils import escape

HEAD_BYTES_MAX = 1 << 16
KEYS_MAX = 1000
LEVEL_0 = "0000"


class Store:
    def __init__(self, delay):
        self.delay = delay
        self.objects = {}  # key to (body, etag, last modified, metadata)
        self.keys = []  # sorted
        self.counts = collections.Counter()
        self.puts = []

    async def serve(self, reader, writer):
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").split("\r\n")
                method, target, _ = first.split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                if headers.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                status, more, answer = await self.answer(method, target, headers, body)
                more = {"Content-Length": len(answer), "Date": email.utils.formatdate(usegmt=True), **more}
                text = f"HTTP/1.1 {status} -\r\n" + "".join(f"{k}: {v}\r\n" for k, v in more.items()) + "\r\n"
                writer.write(text.encode("latin-1") + (b"" if method == "HEAD" else answer))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, method, target, headers, body):
        path, _, query = target.partition("?")
        query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        if path == "/counts":
            counts, self.counts = self.counts, collections.Counter()
            return 200, {}, " ".join(f"{k}={v}" for k, v in sorted(counts.items())).encode()
        if path == "/puts":
            return 200, {}, "".join(f"{key} {at} {made}\n" for key, at, made in self.puts).encode()
        self.counts[method] += 1
        bucket, _, key = urllib.parse.unquote(path[1:]).partition("/")
        if bucket != "bkt":
            return refusal(404, "NoSuchBucket")
        if method == "GET" and not key and query.get("list-type") == "2":
            return 200, {}, self.listing(query)
        if not key or query:
            return refusal(501, "NotImplemented")
        if method == "PUT":
            return await self.put(key, headers, body)
        return self.of_object(method, key, headers)

    async def put(self, key, headers, body):
        if self.delay:
            await asyncio.sleep(self.delay)
        if headers.get("if-none-match") == "*" and key in self.objects:
            return refusal(412, "PreconditionFailed")
        if "if-match" in headers and (key not in self.objects or self.objects[key][1] != headers["if-match"]):
            return refusal(412, "PreconditionFailed")
        if key not in self.objects:
            bisect.insort(self.keys, key)
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        metadata = {k: v for k, v in headers.items() if k.startswith("x-amz-meta-")}
        self.objects[key] = (body, etag, time.time(), metadata)
        if key.endswith(".ltx") and key.split("/")[-2] == LEVEL_0:
            self.puts.append((key, time.time_ns(), struct.unpack(">q", body[32:40])[0]))
        return 200, {"ETag": etag}, b""

    def of_object(self, method, key, headers):
        if key not in self.objects:
            return (204, {}, b"") if method == "DELETE" else refusal(404, "NoSuchKey")
        body, etag, modified, metadata = self.objects[key]
        if headers.get("if-match", etag) != etag:
            return refusal(412, "PreconditionFailed")
        if method == "DELETE":
            del self.objects[key]
            del self.keys[bisect.bisect_left(self.keys, key)]
            return 204, {}, b""
        if method not in ("GET", "HEAD"):
            return refusal(501, "NotImplemented")
        more = {"ETag": etag, "Last-Modified": email.utils.formatdate(modified, usegmt=True), **metadata}
        if method == "HEAD":
            return 200, {**more, "Content-Length": len(body)}, b""
        unit, _, span = headers.get("range", "").partition("=")
        if unit != "bytes":
            return 200, more, body
        first, _, last = span.partition("-")
        first, last = int(first), min(int(last or len(body) - 1), len(body) - 1)
        if first >= len(body):
            return refusal(416, "InvalidRange")
        return 206, {**more, "Content-Range": f"bytes {first}-{last}/{len(body)}"}, body[first : last + 1]

    def listing(self, query):
        prefix, after = query.get("prefix", ""), query.get("continuation-token") or query.get("start-after", "")
        at = max(bisect.bisect_left(self.keys, prefix), bisect.bisect_right(self.keys, after))
        found = []
        while at < len(self.keys) and self.keys[at].startswith(prefix) and len(found) <= KEYS_MAX:
            found.append(self.keys[at])
            at += 1
        more, found = len(found) > KEYS_MAX, found[:KEYS_MAX]
        rows = []
        for key in found:
            body, etag, modified, _ = self.objects[key]
            when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(modified))
            rows.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified><ETag>{escape(etag)}</ETag>"
                f"<Size>{len(body)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        token = f"<NextContinuationToken>{escape(found[-1])}</NextContinuationToken>" if more else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>bkt</Name>'
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(found)}</KeyCount><MaxKeys>{KEYS_MAX}</MaxKeys>"
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>{token}{''.join(rows)}</ListBucketResult>"
        ).encode()


def refusal(status, code):
    return status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


async def main():
    store = Store(float(sys.argv[1]) / 1000)
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
    print("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())
