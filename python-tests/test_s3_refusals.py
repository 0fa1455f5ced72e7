"""A bucket that cannot be used: a new database is not opened, one that has a history goes on and tells why, no secret shown."""

import databases
import pytest
import s3_servers
from s3_proxy import Answer, Proxy
from s3_servers import SECRET
from shell import Shell
from test_s3 import Roles

TOKEN = "token-that-nobody-may-see"


class Talker(Shell):
    """Hears no secret."""

    def ask(self, sql):
        rows = super().ask(sql)
        assert SECRET not in str(rows) and TOKEN not in str(rows), "a secret is shown"
        return rows


class Site:
    """A database that was replicated to a place of its own on a server, and is closed."""

    def __init__(self, process, extension, folder, server, **parameters):
        self.process, self.extension, self.server = process, extension, server
        self.database, self.fresh = folder / "app.db", folder / "fresh.db"
        self.place = "/".join(folder.parts[-2:])
        shell = self.open(**parameters)
        assert shell.ask("CREATE TABLE t(x)") == []
        self.txid = shell.sync(30)
        assert isinstance(self.txid, int), self.txid
        shell.finish()

    def url(self, through=None):
        return (through or self.server).url(self.place)

    def open(self, *before, change=None, database=None, **parameters):
        """Opens it; `change`: of the environment."""
        given = {"replica": self.url(), "replica_interval": "0", "replica_flush_timeout": "100ms", **parameters}
        environment = self.server.environment(HOME="/nonexistent", **(change or {}))
        uri = databases.uri(database or self.database, **given)
        shell = Talker(self.process, self.extension, uri, *before, env=environment)
        shell.ask("PRAGMA journal_mode=WAL")
        return shell

    def tells(self, said, *before, **options):
        """A new database is not opened, and leaves nothing; the old one goes on. Returns it, open."""
        with pytest.raises(AssertionError) as error:
            self.open(*before, database=self.fresh, **options)
        assert said in str(error.value) and SECRET not in str(error.value) and TOKEN not in str(error.value)
        assert not list(self.fresh.parent.glob("fresh.db*"))
        shell = self.open(*before, **options)
        for _ in range(2):
            assert shell.ask("INSERT INTO t VALUES (1)") == [], "the application goes on"
            answer = shell.sync(0.3)
            assert isinstance(answer, str) and said in answer, answer
            ((state, error, txid),) = shell.ask("SELECT state, last_error, acknowledged_txid FROM replica_status")
            assert (state, txid) == ("Live", self.txid) and said in error, error
        return shell


@pytest.fixture
def site(process, extension, tmp_path, start):
    return lambda name, **parameters: Site(process, extension, tmp_path, start(name), **parameters)


@pytest.mark.parametrize(
    "change, bucket, said",
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "bkt", "the secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "AKIDOTHER"}, "bkt", "the store does not know this access key"),
        ({"AWS_ACCESS_KEY_ID": None}, "bkt", "no credentials: set AWS_ACCESS_KEY_ID"),
        ({}, "nobucket", "there is no bucket nobucket at 127.0.0.1:"),
    ],
)
def test_refusal_says_what_to_do(site, change, bucket, said):
    weed = site("weed")
    weed.tells(said, change=change, replica=weed.url().replace("bkt", bucket))


def test_clock_that_is_wrong_is_told_with_both_times(site):
    site("weed").tells("this machine's clock says ", "faketime", "--exclude-monotonic", "-f", "+1h")


def test_store_that_is_not_there_is_named(site):
    place = f"s3://bkt/x?endpoint=http://127.0.0.1:{s3_servers.free_port()}&region=us-east-1"
    site("moto").tells("cannot ask 127.0.0.1:", replica=place)


@pytest.mark.parametrize(
    "answer, said",
    [
        (
            Answer(400, "AuthorizationHeaderMalformed", "wrong", {"x-amz-bucket-region": "eu-west-3"}),
            "the bucket is in region eu-west-3: set replica_region or AWS_REGION",
        ),
        (Answer(301, "PermanentRedirect", "elsewhere", {"x-amz-bucket-region": "eu-west-3"}), "in region eu-west-3"),
        (Answer(400, "ExpiredToken", "The provided token has expired."), "the session token has ended"),
        (Answer(403, "AccessDenied", "Access Denied"), "not allowed: Access Denied"),
    ],
    ids=lambda value: value.code if isinstance(value, Answer) else "",
)
def test_answers_of_other_stores_are_understood_and_got_over(site, answer, said):
    """As Amazon's own store says it; once it says it no more, everything arrives."""
    moto = site("moto")
    with Proxy(moto.server, lambda _: answer) as proxy:
        shell = moto.tells(said, change={"AWS_SESSION_TOKEN": TOKEN}, replica=moto.url(proxy))
        proxy.plan = None
        assert shell.sync(60) > moto.txid
        shell.finish()


def test_keys_that_have_ended_are_asked_for_again(site, web):
    """A put is refused because the token ended: the next one is signed with what the service gives then."""
    moto, roles = site("moto"), Roles()
    none = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
    service = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{web(roles.answer)}/container", "AWS_CONTAINER_AUTHORIZATION_TOKEN": "ticket"}
    with Proxy(moto.server) as proxy:
        shell = moto.open(change={**none, **service}, replica=moto.url(proxy))
        assert len(roles.asked) == 1, roles.asked
        proxy.plan = lambda r: Answer(400, "ExpiredToken", "ended") if r.is_first_put else None
        assert shell.ask("INSERT INTO t VALUES (3)") == []
        assert shell.sync(60) == moto.txid + 1
        assert proxy.applied == {"400": 1} and len(roles.asked) == 2
        shell.finish()


@pytest.mark.parametrize("way", ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "replica_ca_bundle"])
def test_private_authority_is_trusted_when_it_is_named(site, start, way):
    named = {way: start("moto_with_tls").authority}
    secure = site("moto_with_tls", **(named if way.startswith("replica") else {"change": named}))
    assert secure.txid >= 1


def test_unknown_authority_is_refused_and_told(site, start):
    secure = site("moto_with_tls", replica_ca_bundle=start("moto_with_tls").authority)
    secure.tells("certificate").finish()
    secure.tells("AWS_CA_BUNDLE")


def test_bundle_that_is_not_there_fails_every_open(site):
    """What a person wrote wrong is no outage."""
    moto = site("moto")
    for database in (moto.database, moto.fresh):
        with pytest.raises(AssertionError) as error:
            moto.open(database=database, replica_ca_bundle="/nonexistent/ca.pem")
        assert "cannot read the certificates in /nonexistent/ca.pem" in str(error.value)
