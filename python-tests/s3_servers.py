"""S3 servers on this machine for the tests, each in memory or in a folder of its own, ended by process id.

`python s3_servers.py PORT [CERTIFICATE KEY]` is the first of them: moto behind one lock, because its own conditional put
looks up and stores in two steps.
"""

import datetime
import email.utils
import hashlib
import http.server
import ipaddress
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import PurePosixPath

import harness

ACCESS, SECRET, REGION = "AKIDTEST", "secret-of-the-tests", "us-east-1"
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One server and its bucket `bkt`. `authority`: a file with whom to trust, where it speaks TLS."""

    def __init__(self, name, command, port, folder, authority=None):
        scheme = "https" if authority else "http"
        self.name, self.authority, self.endpoint = name, authority, f"{scheme}://127.0.0.1:{port}"
        self.log = folder / f"{name}.log"
        with open(self.log, "wb") as log:
            self.child = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, cwd=folder, stdin=subprocess.DEVNULL
            )
        try:
            self.make_bucket()
        except BaseException:
            self.stop()
            raise

    def client(self):
        import boto3
        from botocore.config import Config

        config = Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}, connect_timeout=5, read_timeout=60)
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            config=config,
            verify=str(self.authority) if self.authority else None,
        )

    def make_bucket(self):
        from botocore.exceptions import BotoCoreError, ClientError

        deadline = time.monotonic() + 60
        while True:
            try:
                self.client().create_bucket(Bucket="bkt")
                return
            except (BotoCoreError, ClientError) as error:
                if self.child.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} does not serve: {error}\n{self.log.read_text()}") from error
                time.sleep(0.1)

    def environment(self, **more):
        """What a program needs to reach it; a value of None leaves a name out."""
        return harness.clean_environment(**{"AWS_CA_BUNDLE": None, "SSL_CERT_FILE": None, **KEYS, **more})

    def url(self, prefix):
        return f"s3://bkt/{prefix}?endpoint={self.endpoint}&region={REGION}"

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                self.child.kill()
        self.child.wait()


class Bucket:
    """A replica below `prefix` of a server's bucket; `proxy` is asked in the server's stead.

    It stands wherever databases.py takes the folder of a replica.
    """

    def __init__(self, server, prefix, proxy=None):
        self.server, self.prefix, self.url = server, prefix, (proxy or server).url(prefix)
        self._client = server.client()

    def _key(self, level, name=""):
        return f"{self.prefix}/{level:04x}/{name}"

    def files(self, level=0):
        """The names of one level, in order."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket="bkt", Prefix=self._key(level))
        return sorted(PurePosixPath(found["Key"]) for page in pages for found in page.get("Contents", []))

    def read(self, level, name):
        return self._client.get_object(Bucket="bkt", Key=self._key(level, name))["Body"].read()

    def write(self, level, name, data):
        self._client.put_object(Bucket="bkt", Key=self._key(level, name), Body=data)

    def delete(self, level, name):
        self._client.delete_object(Bucket="bkt", Key=self._key(level, name))

    def empty(self):
        for level in range(10):
            for file in self.files(level):
                self.delete(level, file.name)


def moto(folder):
    port = free_port()
    return Server("moto", [harness.PYTHON, __file__, port], port, folder)


def moto_with_tls(folder):
    port = free_port()
    certificate, key, authority = certificates(folder)
    return Server("moto", [harness.PYTHON, __file__, port, certificate, key], port, folder, authority)


def certificates(folder):
    """Files with a certificate for 127.0.0.1, its key, and the private authority that vouches for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)

    def name(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def signed(subject, issuer, key, signer, *extensions):
        builder = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - day).not_valid_after(now + day)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(signer, hashes.SHA256())

    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = signed("test authority", "test authority", root, root, x509.BasicConstraints(True, None))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = signed("127.0.0.1", "test authority", own, root, address, x509.BasicConstraints(False, None))
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files = {
        "server.pem": certificate.public_bytes(pem),
        "server.key": own.private_bytes(pem, *plain),
        "authority.pem": authority.public_bytes(pem),
    }
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return tuple(folder / file for file in files)


def weed(folder):
    """SeaweedFS: on disk, and it checks signatures and clocks."""
    keys = [{"accessKey": ACCESS, "secretKey": SECRET}]
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "admin", "credentials": keys, "actions": actions}]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    ports = {}
    for name in ("s3", "master", "volume", "filer", "admin"):
        # Each also listens 10,000 further on.
        while (port := free_port()) > 50_000 or port in ports.values():
            pass
        ports[name] = port
    (folder / "weed").mkdir()
    command = [harness.PYTHON.parent / "weed", "mini", f"-dir={folder / 'weed'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += [f"-s3.port={ports['s3']}", f"-s3.config={folder / 's3.json'}", f"-admin.port={ports['admin']}"]
    command += [f"-{name}.port={ports[name]}" for name in ("master", "volume", "filer")]
    command += ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    return Server("weed", command, ports["s3"], folder)


def rclone(folder):
    """Ignores every condition: what the examination of a store must find out."""
    (folder / "rclone").mkdir()
    port = free_port()
    command = [harness.PYTHON.parent / "rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", f"{ACCESS},{SECRET}", "--vfs-cache-mode", "off", folder / "rclone"]
    return Server("rclone", command, port, folder)


class Careless(http.server.BaseHTTPRequestHandler):
    """A store that honours conditions, but looks up, waits and then stores: only a race finds that out."""

    protocol_version = "HTTP/1.1"
    objects = {}

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("if-none-match") == "*" and self.path in self.objects:
            return self.answer(412)
        time.sleep(0.03)
        self.objects[self.path] = (body, email.utils.formatdate(usegmt=True), dict(self.headers))
        self.answer(200, etag=self.etag(body))

    def do_GET(self):
        parts = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(parts.query)
        if "list-type" in query:
            prefix = f"{parts.path}/{query['prefix'][0]}"
            return self.answer(200, self.listing(parts.path, sorted(k for k in self.objects if k.startswith(prefix))))
        if self.path not in self.objects:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        body, date, headers = self.objects[self.path]
        if self.headers.get("if-match", self.etag(body)) != self.etag(body):
            return self.answer(412)
        stamp = {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}
        self.answer(200, body, etag=self.etag(body), **{"last-modified": date, **stamp})

    do_HEAD = do_GET

    def do_DELETE(self):
        found = self.objects.get(self.path)
        if found and self.headers.get("if-match", self.etag(found[0])) != self.etag(found[0]):
            return self.answer(412)
        self.objects.pop(self.path, None)
        self.answer(204)

    def listing(self, bucket, keys):
        xml = "<ListBucketResult><IsTruncated>false</IsTruncated>"
        for key in keys:
            body, date, _ = self.objects[key]
            at = email.utils.parsedate_to_datetime(date).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            xml += f"<Contents><Key>{key[len(bucket) + 1:]}</Key><LastModified>{at}</LastModified>"
            xml += f"<ETag>&quot;{self.etag(body)[1:-1]}&quot;</ETag><Size>{len(body)}</Size></Contents>"
        return (xml + "</ListBucketResult>").encode()

    @staticmethod
    def etag(body):
        return f'"{hashlib.md5(body).hexdigest()}"'

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {**headers, "content-length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve_moto(port, *certificate):
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    inner, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def application(environment, start):
        with lock:
            return list(inner(environment, start))

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    run_simple("127.0.0.1", port, application, threaded=True, ssl_context=certificate or None)


if __name__ == "__main__":
    serve_moto(int(sys.argv[1]), *sys.argv[2:])
