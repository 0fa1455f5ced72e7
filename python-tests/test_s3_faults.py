"""The network or the store fails while a database replicates to a bucket: what is committed arrives, once, and is told."""

import os

import databases
import harness
import pytest
import s3_proxy
import s3_servers
from s3_proxy import Proxy
from shell import Shell

LONG = bool(os.environ.get("LONG"))
SYNCS = 60 if LONG else 10

class Application:
    """A process that writes one database, which replicates through a proxy; told what to do line by line."""

    def __init__(self, process, extension, folder, server, proxy, **parameters):
        self.database, self.restored = folder / "app.db", folder / "restored.db"
        # The same names in each run, so that a seed decides the same.
        place = f"faults/{folder.name}"
        self.near, self.far = s3_servers.Bucket(server, place), s3_servers.Bucket(server, place, proxy)
        given = {"replica_interval": "0", "replica_sync_timeout": "60s", **parameters}
        self.shell = Shell(process, extension, databases.uri(self.database, self.far, **given), env=server.environment())
        self.shell.ask("PRAGMA journal_mode=WAL")
        self.ask("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")

    def ask(self, sql):
        rows = self.shell.ask(sql)
        assert not isinstance(rows, str), rows
        return rows

    def write(self):
        assert self.ask("INSERT INTO t(x) VALUES (randomblob(2000))") == []

    def sync(self, *timeout):
        txid = self.shell.sync(*timeout)
        assert isinstance(txid, int), (txid, self.status())
        return txid

    def status(self):
        columns = ["state", "acknowledged_txid", "lag_ms", "last_error", "last_event", "retries"]
        ((row),) = self.ask(f"SELECT {', '.join(columns)} FROM replica_status")
        return dict(zip(columns, row))

    def check(self, txid):
        """Nothing is lost, nothing is there twice."""
        status = self.status()
        assert (status["state"], status["acknowledged_txid"]) == ("Live", txid), status
        self.shell.finish()
        names = [file.name for file in databases.files(self.near)]
        assert names == [f"{n:016x}-{n:016x}.ltx" for n in range(1, txid + 1)]
        assert databases.assert_equal(self.near, self.database) == txid


@pytest.fixture
def application(process, extension, tmp_path, start):
    """Starts one against a server, behind a proxy with a plan."""
    proxies = []

    def begin(server, plan=None, silence=40, **parameters):
        proxies.append(Proxy(start(server), plan, silence=silence))
        return Application(process, extension, tmp_path, start(server), proxies[-1], **parameters), proxies[-1]

    yield begin
    for proxy in proxies:
        proxy.stop()


MIXTURE = {"cut": 0.08, "reset": 0.03, "mute": 0.03, "silence": 0.03, "torn": 0.03, "_500": 0.03, "_503": 0.03, "_429": 0.03}
PUTS, ALL = ("PUT",), ("PUT", "GET", "HEAD")


@pytest.mark.parametrize(
    "server, methods, odds",
    [
        ("moto", PUTS, {"cut": 0.6}),
        ("weed", PUTS, {"cut": 0.6}),
        ("moto", ALL, {"reset": 0.4}),
        ("moto", ALL, {"torn": 0.4}),
        ("moto", ALL, {"_500": 0.2, "_503": 0.2, "_429": 0.2}),
        ("moto", PUTS, {"mute": 0.3, "silence": 0.3}),
        ("weed", ALL, MIXTURE),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value).replace("_", ""),
)
def test_commits_arrive_through_faults(application, server, methods, odds):
    app, proxy = application(server, silence=0.1)
    app.sync()
    proxy.plan = s3_proxy.seeded("a", methods, **odds)
    for _ in range(SYNCS if LONG or odds is not MIXTURE else 8):
        app.write()
        txid = app.sync()
    status = app.status()
    print(server, odds, proxy.applied, proxy.requests, "unanswered", proxy.unanswered, status)
    assert set(proxy.applied) == {fault.lstrip("_") for fault in odds} or odds is MIXTURE and not LONG, "every fault came"
    assert status["retries"] > 0
    if "cut" in odds or "mute" in odds:
        assert proxy.unanswered > 0
    proxy.plan = None
    app.check(txid)


def test_put_whose_answer_is_lost_is_found_there(application):
    """Each put twice: the first is done and not told, the second is told that the name is taken."""
    app, proxy = application("moto", lambda r: "cut" if r.is_first_put else None)
    for count in range(1, 6):
        app.write()
        app.sync()
    txid = app.sync()
    assert proxy.unanswered == txid and app.status()["retries"] >= txid
    app.check(txid)


def test_writer_killed_before_it_heard_of_its_put_goes_on(application, process, extension, tmp_path):
    app, proxy = application("moto")
    txid = app.sync()
    proxy.plan = lambda r: "mute" if r.method == "PUT" else None
    app.write()
    harness.wait_for(lambda: proxy.unanswered == 1, "a put without an answer")
    app.shell.process.kill()
    proxy.plan = None
    uri = databases.uri(app.database, app.far, replica_interval="0")
    app.shell = Shell(process, extension, uri, env=app.near.server.environment())
    assert app.sync() == txid + 1
    app.write()
    assert app.sync() == txid + 2
    app.check(txid + 2)


@pytest.mark.parametrize("fault", ["reset", "503"])
def test_store_that_is_away_for_a_while(application, fault):
    """Commits go on, error and lag show, and everything arrives by itself afterwards."""
    app, proxy = application("moto", replica_sync_timeout="100ms")
    txid = app.sync(30)
    proxy.plan = lambda _: fault
    app.write()
    said = "SlowDown" if fault == "503" else "cannot ask 127.0.0.1:"
    harness.wait_for(lambda: said in (app.status()["last_error"] or ""), "the error in replica_status")
    harness.wait_for(lambda: app.status()["lag_ms"] > 0, "lag in replica_status")
    answer = app.shell.sync()
    assert isinstance(answer, str) and said in answer, answer
    for _ in range(30):
        app.write()
    status = app.status()
    assert (status["state"], status["acknowledged_txid"]) == ("Live", txid), status
    proxy.plan = None
    harness.wait_for(lambda: app.status()["lag_ms"] == 0, "catching up by itself", timeout=90)
    app.check(app.sync(30))


def test_database_opens_while_the_store_is_away(application, process, extension):
    app, proxy = application("moto")
    txid = app.sync()
    app.shell.finish()
    proxy.plan = lambda _: "reset"
    uri = databases.uri(app.database, app.far, replica_interval="0", replica_sync_timeout="100ms")
    app.shell = Shell(process, extension, uri, env=app.near.server.environment())
    app.write()
    answer = app.shell.sync()
    assert isinstance(answer, str) and "cannot ask 127.0.0.1:" in answer, answer
    proxy.plan = None
    harness.wait_for(lambda: app.status()["acknowledged_txid"] == txid + 1, "catching up by itself", timeout=90)
    app.write()
    app.check(app.sync(30))


def test_store_that_is_slow_makes_no_commit_wait(application):
    """While one put takes its time the next group grows: far fewer puts than commits."""
    app, proxy = application("moto")
    app.sync()
    proxy.latency = {"PUT": 1.0}
    puts = proxy.requests["PUT"]
    for _ in range(100):
        app.write()
    txid = app.sync()
    assert proxy.requests["PUT"] - puts < 30, "commits shared puts"
    app.check(txid)


def test_store_that_allows_few_requests_gets_few(application):
    app, proxy = application("weed")
    proxy.rate = 5
    for _ in range(SYNCS):
        app.write()
    txid = app.sync()
    app.check(txid)


@pytest.mark.skipif(not LONG, reason="waits for the client's own patience, half a minute a time")
@pytest.mark.parametrize("fault", ["mute", "silence"])
def test_silence_ends_by_the_clients_own_patience(application, fault):
    app, proxy = application("moto", silence=300)
    txid = app.sync()
    proxy.plan = lambda r: fault if r.is_first_put else None
    app.write()
    assert app.sync() == txid + 1
    assert proxy.applied == {fault: 1}
    app.check(txid + 1)


def test_group_that_is_stored_is_acknowledged_although_the_next_one_is_not(application):
    app, proxy = application("moto")
    txid = app.sync()
    proxy.plan = lambda r: "reset" if r.method == "PUT" else None
    app.write()
    harness.wait_for(lambda: proxy.applied["reset"] > 0, "a put that failed")
    app.write()
    proxy.plan = lambda r: "reset" if r.key.endswith(f"-{txid + 2:016x}.ltx") else None
    harness.wait_for(lambda: app.status()["acknowledged_txid"] == txid + 1, "the first of both")
    harness.wait_for(lambda: app.status()["retries"] > 5, "attempts with the second")
    (first,) = (times for (method, target), times in proxy.times.items() if method == "PUT" and f"-{txid + 1:016x}." in target)
    assert first < proxy.applied["reset"], "what is stored is not put again with each of them"
    proxy.plan = None
    app.check(app.sync())


def test_trial_of_a_store_goes_on_where_it_broke_off(application):
    """Every request fails twice before it is answered: in a row they would never all come through."""
    app, proxy = application("moto", lambda r: "cut" if r.times < 2 else None)
    app.write()
    txid = app.sync()
    trials = {target for method, target in proxy.times if "/probe-" in target}
    assert len(trials) == 1, trials
    listed = app.near.server.client().list_objects_v2(Bucket="bkt", Prefix=app.near.prefix)["Contents"]
    assert all(found["Key"].endswith(".ltx") for found in listed), "nothing is left of it"
    app.check(txid)


@pytest.mark.parametrize("server", ["moto", "weed"])
def test_group_in_parts_arrives_although_answers_are_lost(application, server):
    """That to the first part, to the second part, and to what makes one object of them; each is lost once."""
    lost = ["uploads=", "partNumber=1&", "partNumber=2&", "uploadId="]

    def plan(request):
        query = request.target.partition("?")[2]
        if lost and lost[0] in query and request.method in ("PUT", "POST"):
            lost.pop(0)
            return "cut"

    app, proxy = application(server, plan, replica_part_size="5MiB")
    app.sync()
    for _ in range(2):
        app.ask("INSERT INTO t(x) VALUES (randomblob(11000000))")
        txid = app.sync()
    assert not lost, lost
    left = app.near.server.client().list_multipart_uploads(Bucket="bkt").get("Uploads", [])
    assert len([upload for upload in left if upload["Key"].startswith(app.near.prefix)]) <= 1, "only the one nobody heard of"
    app.check(txid)
