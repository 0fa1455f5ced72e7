"""The proxy of the other tests does what it says; and what reads a bucket comes through a bad network."""

import email.utils
import http.client
import json
import sqlite3
import urllib.parse

import harness
import pytest
import s3_proxy
from s3_proxy import Answer, Proxy
from s3_servers import ACCESS, REGION


@pytest.fixture(scope="module")
def moto(start):
    return start("moto")


# moto wants to know who asks, and does not look at the signature.
SIGNED = {"Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS}/20200101/{REGION}/s3/aws4_request, SignedHeaders=host, Signature=0"}


class Client:
    """Asks on one connection while that lasts."""

    def __init__(self, proxy):
        self.connection = http.client.HTTPConnection(urllib.parse.urlsplit(proxy.endpoint).netloc, timeout=1)

    def ask(self, method, key, body=None):
        """Status and body, or the name of what went wrong."""
        try:
            self.connection.request(method, f"/bkt/{key}", body, SIGNED)
            answer = self.connection.getresponse()
            self.headers = answer.headers
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return type(error).__name__


@pytest.mark.parametrize(
    "fault, answer, is_stored",
    [
        (None, 200, True),
        ("reset", "ConnectionResetError", False),
        ("silence", "TimeoutError", False),
        ("cut", "ConnectionResetError", True),
        ("mute", "TimeoutError", True),
        ("500", 500, False),
        ("503", 503, False),
        ("429", 429, False),
        (Answer(400, "ExpiredToken"), 400, False),
    ],
)
def test_put_meets_the_fault_of_the_plan(moto, fault, answer, is_stored):
    name = str(fault.status) if isinstance(fault, Answer) else fault
    key = f"put-{name}"
    with Proxy(moto, lambda request: fault if request.method == "PUT" else None) as proxy:
        client = Client(proxy)
        got = client.ask("PUT", key, b"body")
        assert (got if isinstance(got, str) else got[0]) == answer
        assert proxy.applied == ({name: 1} if fault else {})
        assert proxy.unanswered == (fault in ("cut", "mute"))
        # The same client goes on.
        assert client.ask("GET", key)[0] == (200 if is_stored else 404)
        assert client.ask("HEAD", key) == (200 if is_stored else 404, b"")
        assert proxy.requests == {"PUT": 1, "GET": 1, "HEAD": 1}


def test_torn_answer_breaks_off_inside(moto):
    with Proxy(moto, lambda request: "torn" if request.times == 1 else None) as proxy:
        client = Client(proxy)
        assert client.ask("PUT", "torn", bytes(5000))[0] == 200
        assert client.ask("GET", "torn") == (200, bytes(5000))
        assert client.ask("GET", "torn") in ("ConnectionResetError", "IncompleteRead")
        assert client.ask("GET", "torn") == (200, bytes(5000))


def test_clock_of_the_server_can_seem_to_be_ahead(moto):
    with Proxy(moto) as proxy:
        client = Client(proxy)

        def told():
            client.ask("GET", "none")
            return email.utils.parsedate_to_datetime(client.headers["date"]).timestamp()

        before = told()
        proxy.ahead = 1000
        assert 1000 <= told() - before <= 1060


def test_seed_decides_the_same_for_the_same_requests():
    requests = [s3_proxy.Request(method, f"/bkt/{n}", n % 3, 0) for n in range(500) for method in ("PUT", "GET")]
    once, again, other = (
        [plan(request) for request in requests]
        for plan in (s3_proxy.seeded(7, cut=0.2, _500=0.1), s3_proxy.seeded(7, cut=0.2, _500=0.1), s3_proxy.seeded(8, cut=0.2))
    )
    assert once == again != other
    assert all(fault is None for fault in once[1::2]), "only puts"
    assert 60 < once.count("cut") < 140 and 20 < once.count("500") < 80


def test_rate_that_is_passed_is_told_to_slow_down(moto):
    with Proxy(moto, rate=10) as proxy:
        client = Client(proxy)
        answers = [client.ask("GET", "none")[0] for _ in range(30)]
    # A second may end meanwhile.
    assert set(answers) == {404, 503} and 10 <= answers.count(404) <= 20


def test_store_behind_the_proxy_obeys_the_contract(moto):
    """Nothing of the way in between is seen: signatures, headers, bodies of every size."""
    command = ["cargo", "test", "--quiet", "--lib", "replica::s3::tests::obeys", "--", "--ignored"]
    with Proxy(moto) as proxy:
        environment = moto.environment(S3_CONTRACT_URL=proxy.url("proxy-contract"))
        assert "1 passed" in harness.run(command, timeout=900, env=environment, cwd=harness.ROOT)
        assert proxy.requests["PUT"] > 20 and not proxy.applied


def test_restore_comes_through_bodies_that_break_off(moto, litestream, tmp_path):
    database, copy = tmp_path / "app.db", tmp_path / "copy.db"
    c = sqlite3.connect(database, isolation_level=None)
    c.execute("PRAGMA journal_mode=WAL")
    c.execute("CREATE TABLE t(x)")
    bucket = {"type": "s3", "bucket": "bkt", "path": "torn", "endpoint": moto.endpoint, "region": REGION}
    config = harness.litestream_config(tmp_path / "litestream.yml", database, {**bucket, "force-path-style": True})
    with harness.Process([litestream, "replicate", "-config", config], env=moto.environment()):
        for _ in range(4):
            before = level_0(moto)
            c.execute("INSERT INTO t VALUES (randomblob(300000))")
            harness.wait_for(lambda: level_0(moto) > before, "a file after a commit")

    def plan(request):
        return "torn" if request.method == "GET" and request.key and request.times < 2 else None

    with Proxy(moto, plan) as proxy:
        command = [harness.CLI, "restore", "--json", proxy.url("torn"), copy]
        assert json.loads(harness.run(command, env=moto.environment()))["txid"] >= 4
        assert proxy.applied["torn"] >= 5
    restored = sqlite3.connect(copy)
    assert restored.execute("SELECT * FROM t").fetchall() == c.execute("SELECT * FROM t").fetchall()
    c.close()
    restored.close()


def level_0(server):
    listed = server.client().list_objects_v2(Bucket="bkt", Prefix="torn/0000/")
    return len(listed.get("Contents", []))
