"""Replicas in a bucket, on real servers: the contract of every store, what litestream wrote, and what goes wrong."""

import json
import signal
import sqlite3
import subprocess
import urllib.parse

import harness
import pytest
import s3_servers
from s3_servers import ACCESS, REGION, SECRET


@pytest.fixture(scope="module", params=["moto", "weed"])
def server(request, start):
    return start(request.param)


@pytest.fixture(scope="module")
def checking(start):
    """A server that checks who asks, and when."""
    return start("weed")


@pytest.fixture(scope="module")
def secure(start):
    """A server with a certificate that only a private authority vouches for."""
    return start("moto_with_tls")


def run_cli(arguments, environment, before=()):
    """Exit code, standard output and errors, none of which holds the secret."""
    command = [str(word) for word in (*before, harness.CLI, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert SECRET not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def cli(arguments, environment, before=()):
    """Exit code and everything printed."""
    code, out, err = run_cli(arguments, environment, before)
    return code, out + err


def test_store_obeys_the_contract(server):
    command = ["cargo", "test", "--quiet", "--lib", "replica::s3::tests::obeys", "--", "--ignored"]
    environment = server.environment(S3_CONTRACT_URL=server.url("contract"))
    printed = harness.run(command, timeout=900, env=environment, cwd=harness.ROOT)
    assert "1 passed" in printed


def test_restores_what_litestream_wrote_to_a_bucket(server, litestream, tmp_path):
    database, prefix = tmp_path / "app.db", "some/pre"
    bucket = {"type": "s3", "bucket": "bkt", "path": prefix, "endpoint": server.endpoint, "region": REGION}
    config = harness.litestream_config(tmp_path / "litestream.yml", database, {**bucket, "force-path-style": True})
    sqlite3.connect(database).close()
    environment = server.environment()
    with harness.Process([litestream, "replicate", "-config", config], env=environment) as process:
        c = sqlite3.connect(database, isolation_level=None)
        c.execute("PRAGMA journal_mode=WAL")
        c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        objects = server.client()

        def keys(level):
            listed = objects.list_objects_v2(Bucket="bkt", Prefix=f"{prefix}/{level:04x}/")
            return [found["Key"] for found in listed.get("Contents", [])]

        for step in range(12):
            before = len(keys(0))
            c.execute("BEGIN")
            c.executemany("INSERT INTO t(x) VALUES (?)", [(f"{step} {n}" * 40,) for n in range(80)])
            c.execute("COMMIT")
            harness.wait_for(lambda: len(keys(0)) > before, "a file after a commit")
        harness.wait_for(lambda: keys(2), "a merged file of level 2")
        process.child.send_signal(signal.SIGTERM)
        process.child.wait(60)
    c.close()
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    code, printed = cli(["restore", server.url(prefix), ours], environment)
    assert code == 0, printed
    harness.run([litestream, "restore", "-o", theirs, server.url(prefix)], env=environment)
    assert ours.read_bytes() == theirs.read_bytes()
    code, printed = cli(["list", "--json", server.url(prefix)], environment)
    assert code == 0, printed
    files = json.loads(printed)
    assert {file["level"] for file in files} >= {0, 1, 2}
    check_sql(server, prefix, tmp_path / "sql.db", len(files))
    assert (tmp_path / "sql.db").read_bytes() == theirs.read_bytes()
    early = sorted(file["max_txid"] for file in files if file["level"] == 0)[3]
    ours.unlink()
    theirs.unlink()
    code, printed = cli(["restore", "--txid", early, server.url(prefix), ours], environment)
    assert code == 0, printed
    harness.run([litestream, "restore", "-txid", f"{early:016x}", "-o", theirs, server.url(prefix)], env=environment)
    assert ours.read_bytes() == theirs.read_bytes()


def check_sql(server, prefix, copy, files):
    """The SQL functions read the same replica, with all that the store needs in the environment."""
    script = """
import sqlite3, sys
extension, url, copy = sys.argv[1:]
c = sqlite3.connect(":memory:")
c.enable_load_extension(True)
c.load_extension(extension)
print(c.execute("SELECT count(*) FROM replica_files(?)", (url,)).fetchone()[0])
print(c.execute("SELECT replica_restore(?, ?)", (url, copy)).fetchone()[0])
"""
    environment = server.environment(AWS_ENDPOINT_URL_S3=server.endpoint, AWS_REGION=REGION)
    command = [harness.PYTHON, "-c", script, harness.EXTENSION, f"s3://bkt/{prefix}", copy]
    counted, txid = harness.run(command, env=environment).split()
    assert int(counted) == files and int(txid) > 0


@pytest.mark.parametrize(
    "change, place, said",
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "bkt", "the secret key is wrong"),
        ({"AWS_ACCESS_KEY_ID": "AKIDOTHER"}, "bkt", "the store does not know this access key"),
        ({"AWS_ACCESS_KEY_ID": None}, "bkt", "no credentials: set AWS_ACCESS_KEY_ID"),
        ({}, "nobucket", "there is no bucket nobucket at 127.0.0.1:"),
    ],
)
def test_refusal_says_what_to_do(checking, change, place, said):
    environment = checking.environment(HOME="/nonexistent", **change)
    code, printed = cli(["list", checking.url("x").replace("bkt", place)], environment)
    assert code == 1 and said in printed, printed


def test_clock_that_is_wrong_is_told_with_both_times(checking):
    code, printed = cli(["list", checking.url("x")], checking.environment(), before=["faketime", "-f", "+1h"])
    assert code == 1 and "this machine's clock says " in printed and "set it right" in printed, printed


def test_store_that_is_not_there_is_named(checking):
    url = f"s3://bkt/x?endpoint=http://127.0.0.1:{s3_servers.free_port()}"
    code, printed = cli(["list", url], checking.environment())
    assert code == 1 and "cannot ask 127.0.0.1:" in printed, printed


def test_wrong_region_names_the_right_one(checking, web):
    """As Amazon's own store answers."""
    xml = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>wrong region</Message></Error>"
    url = f"s3://bkt/x?endpoint={web(lambda *_: (400, {'x-amz-bucket-region': 'eu-west-3'}, xml))}&region=us-east-1"
    code, printed = cli(["list", url], checking.environment())
    assert code == 1 and "the bucket is in region eu-west-3: set replica_region or AWS_REGION" in printed, printed


def examined(url, environment):
    """Exit code of the examination, and the verdict on each capability."""
    code, out, err = run_cli(["doctor", "--json", url], environment)
    assert out, err
    return code, {row["capability"]: row["verdict"] for row in json.loads(out)}


def test_examination_finds_a_good_store_good_and_leaves_nothing(server):
    code, verdicts = examined(server.url("doc"), server.environment())
    assert (code, "BAD" in verdicts.values()) == (0, False), verdicts
    assert verdicts["create if absent"] == verdicts["create if absent, racing"] == verdicts["clean up"] == "good"
    assert "Contents" not in server.client().list_objects_v2(Bucket="bkt", Prefix="doc")
    code, printed = cli(["doctor", server.url("doc")], server.environment())
    assert code == 0 and "commits that wait for the store" in printed, printed


def test_examination_finds_out_a_store_that_ignores_conditions(tmp_path):
    server = s3_servers.rclone(tmp_path)
    try:
        code, verdicts = examined(server.url("doc"), server.environment())
    finally:
        server.stop()
    assert (code, verdicts["create if absent"]) == (1, "BAD"), verdicts


def test_examination_finds_out_a_store_that_is_right_only_one_at_a_time(checking, web):
    url = f"s3://bkt/doc?endpoint={web(handler=s3_servers.Careless)}"
    code, verdicts = examined(url, checking.environment())
    assert (code, verdicts["create if absent"]) == (1, "good"), verdicts
    assert verdicts["create if absent, racing"] == "BAD", verdicts


def test_folder_is_examined_too_and_a_missing_one_is_not_made(tmp_path):
    folder = tmp_path / "replica"
    code, printed = cli(["doctor", f"file://{folder}"], harness.clean_environment())
    assert code == 1 and "cannot find the replica folder" in printed and not folder.exists(), printed
    folder.mkdir()
    code, verdicts = examined(f"file://{folder}", harness.clean_environment())
    assert (code, "BAD" in verdicts.values(), list(folder.iterdir())) == (0, False, [])


class Roles:
    """Services that give keys: to a container, an instance and a web identity."""

    def __init__(self):
        keys = {"AccessKeyId": ACCESS, "SecretAccessKey": SECRET, "Expiration": "2099-01-01T00:00:00Z"}
        self.json = json.dumps(keys)
        self.asked = []

    def answer(self, method, path, headers):
        self.asked.append(path.split("?")[0])
        if path == "/latest/api/token":
            good = method == "PUT" and headers.get("x-aws-ec2-metadata-token-ttl-seconds")
            return (200, {}, "v2-token") if good else (400, {}, "")
        if path.startswith("/latest/"):
            if headers.get("x-aws-ec2-metadata-token") != "v2-token":
                return 401, {}, ""
            return 200, {}, self.json if path.endswith("/my-role") else "my-role"
        if path == "/container":
            return (200, {}, self.json) if headers.get("authorization") == "ticket" else (403, {}, "")
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        if query.get("Action") == ["AssumeRoleWithWebIdentity"] and query["WebIdentityToken"] == ["from a file"]:
            inner = "".join(f"<{k}>{v}</{k}>" for k, v in json.loads(self.json).items())
            return 200, {}, f"<R><AssumeRoleWithWebIdentityResult><Credentials>{inner}</Credentials></AssumeRoleWithWebIdentityResult></R>"
        return 404, {}, ""


@pytest.mark.parametrize("source", ["profile", "web identity", "container", "instance"])
def test_keys_come_from_every_standard_source(checking, web, tmp_path, source):
    roles = Roles()
    service = web(roles.answer)
    token = tmp_path / "token"
    token.write_text("from a file\n" if source == "web identity" else "ticket\n")
    credentials = tmp_path / "credentials"
    credentials.write_text(f"[work]\naws_access_key_id={ACCESS}\naws_secret_access_key={SECRET}\n")
    variables = {
        "profile": {"AWS_SHARED_CREDENTIALS_FILE": credentials, "AWS_PROFILE": "work"},
        "web identity": {
            "AWS_ROLE_ARN": "arn:aws:iam::1:role/x",
            "AWS_WEB_IDENTITY_TOKEN_FILE": token,
            "AWS_ENDPOINT_URL_STS": service,
        },
        "container": {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{service}/container",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": token,
        },
        "instance": {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service, "AWS_EC2_METADATA_DISABLED": None},
    }
    none = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "HOME": "/nonexistent"}
    environment = checking.environment(**none, **variables[source])
    code, printed = cli(["list", checking.url("x")], environment)
    assert code == 0, printed
    expected = {"profile": 0, "web identity": 1, "container": 1, "instance": 3}[source]
    assert len(roles.asked) == expected, roles.asked


def test_service_without_keys_is_named(checking, web):
    environment = checking.environment(
        AWS_ACCESS_KEY_ID=None, HOME="/nonexistent", AWS_CONTAINER_CREDENTIALS_FULL_URI=web(lambda *_: (500, {}, "")) + "/c"
    )
    code, printed = cli(["list", checking.url("x")], environment)
    assert code == 1 and "get the container's credentials: " in printed and "answers 500" in printed, printed


@pytest.mark.parametrize("way", ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "ca_bundle"])
def test_private_authority_is_trusted_when_it_is_named(secure, way):
    url = secure.url("x") + (f"&ca_bundle={secure.authority}" if way == "ca_bundle" else "")
    named = {} if way == "ca_bundle" else {way: secure.authority}
    code, printed = cli(["list", url], secure.environment(**named))
    assert code == 0, printed


def test_unknown_authority_is_refused_and_told(secure):
    code, printed = cli(["list", secure.url("x")], secure.environment())
    assert code == 1 and "certificate" in printed and "AWS_CA_BUNDLE" in printed, printed
    code, printed = cli(["list", secure.url("x")], secure.environment(AWS_CA_BUNDLE="/nonexistent/ca.pem"))
    assert code == 1 and "cannot read the certificates in /nonexistent/ca.pem" in printed, printed
