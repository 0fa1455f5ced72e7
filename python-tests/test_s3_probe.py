"""What a store honours is tried out before the first put, and a store that ignores conditions says so in the status."""

import contextlib
import sqlite3

import harness
import pytest
import s3_servers

SCRIPT = """
import sqlite3, sys
extension, uri = sys.argv[1:]
c = sqlite3.connect(":memory:"); c.enable_load_extension(True); c.load_extension(extension)
c = sqlite3.connect(uri, uri=True, isolation_level=None)
c.execute("CREATE TABLE IF NOT EXISTS t(x)")
for line in sys.stdin:
    try:
        c.execute(line)
        c.execute("SELECT replica_sync()")
    except sqlite3.Error as error:
        print(error)
    print(*c.execute("SELECT role, state, last_event FROM replica_status").fetchone(), flush=True)
"""

LARGE = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) INSERT INTO t SELECT randomblob(10000) FROM n"


def writer(server, database, prefix, environment):
    uri = (
        f"file:{database}?vfs=replvfs&replica=s3://bkt/{prefix}&replica_endpoint={server.endpoint}"
        f"&replica_region={s3_servers.REGION}&replica_interval=0"
    )
    return harness.Process(SCRIPT, harness.EXTENSION.with_suffix(""), uri, env=environment)


@contextlib.contextmanager
def two_copies(server, folder, prefix):
    """Writers of a database and of a copy of it, log included, both open at the same end of one replica."""
    environment = server.environment()
    first, second = (folder / name for name in ("first", "second"))
    first.mkdir()
    with writer(server, first / "app.db", prefix, environment) as one:
        one.tell("INSERT INTO t VALUES (1)")
        assert one.line().startswith("home")
        harness.run(["cp", "-a", first, second])
        with writer(server, second / "app.db", prefix, environment) as two:
            two.tell("SELECT 1")
            assert two.line().startswith("home")
            yield one, two


@pytest.mark.parametrize("kind,role", [("weed", "home"), ("rclone", "home, single-writer")])
def test_verdict_stands_in_the_status(kind, role, tmp_path):
    server = getattr(s3_servers, kind)(tmp_path)
    try:
        environment = server.environment()
        with writer(server, tmp_path / "app.db", "some/app", environment) as process:
            process.tell("INSERT INTO t VALUES (1)")
            answer = process.line()
            assert answer.startswith(f"{role} Live"), answer
            assert ("ignores conditional writes (single-writer)" in answer) == (kind == "rclone")
            process.tell("INSERT INTO t VALUES (2)")
            assert process.line().startswith(f"{role} Live")
            process.finish()
        keys = [found["Key"] for found in server.client().list_objects_v2(Bucket="bkt")["Contents"]]
        assert [key for key in keys if "probe" in key] == []
        restored = tmp_path / "restored.db"
        harness.run([harness.CLI, "restore", server.url("some/app"), restored], env=environment)
        assert sqlite3.connect(restored).execute("SELECT sum(x) FROM t").fetchone() == (3,)
    finally:
        server.stop()


def no_leases(url, environment):
    """The test of the client itself: nobody is told that a lease is its own."""
    command = ["cargo", "test", "--quiet", "--lib", "replica::s3::tests::refuses_leases", "--", "--ignored"]
    printed = harness.run(command, timeout=900, env={**environment, "S3_CONTRACT_URL": url}, cwd=harness.ROOT)
    assert "1 passed" in printed


def test_store_that_ignores_every_condition_has_no_leases(tmp_path):
    server = s3_servers.rclone(tmp_path)
    try:
        no_leases(server.url("some/app"), server.environment())
    finally:
        server.stop()


def test_store_that_replaces_whatever_is_there_has_no_leases(web):
    """It refuses a second create, so that it is good enough for a history."""
    url = f"s3://bkt/some/app?endpoint={web(handler=s3_servers.Careless)}&region={s3_servers.REGION}"
    no_leases(url, harness.clean_environment(**s3_servers.KEYS))


def test_second_writer_is_noticed_where_it_does_not_race_although_conditions_are_ignored(tmp_path):
    server = s3_servers.rclone(tmp_path)
    try:
        with two_copies(server, tmp_path, "shared") as (one, two):
            one.tell("INSERT INTO t VALUES (2)")
            assert one.line().startswith("home, single-writer Live")
            two.tell("INSERT INTO t VALUES (3)")
            assert "home" in two.until("Fenced")
    finally:
        server.stop()


@pytest.mark.parametrize("kind", ["weed", "moto"])
def test_large_group_goes_up_in_parts_and_its_name_is_still_created_once(kind, tmp_path):
    server = getattr(s3_servers, kind)(tmp_path)
    try:
        environment = server.environment()
        database = tmp_path / "app.db"
        with writer(server, database, "large&replica_part_size=5MiB", environment) as process:
            process.tell(LARGE)
            assert process.line().startswith("home Live")
            process.finish()
        largest = max(server.client().list_objects_v2(Bucket="bkt", Prefix="large/")["Contents"], key=lambda o: o["Size"])
        head = server.client().head_object(Bucket="bkt", Key=largest["Key"])
        assert largest["Size"] > 10 << 20 and "-" in head["ETag"], "it did not go up in parts"
        assert head["Metadata"]["litestream-timestamp"]
        restored = tmp_path / "restored.db"
        harness.run([harness.CLI, "restore", server.url("large"), restored], env=environment)
        mine, theirs = (sqlite3.connect(path).execute("SELECT * FROM t").fetchall() for path in (database, restored))
        assert mine == theirs and len(mine) == 1200
        # Two copies that go on with a large group each: one name, created once.
        with two_copies(server, tmp_path, "twice&replica_part_size=5MiB") as (one, two):
            one.tell(LARGE)
            assert one.line().startswith("home Live")
            two.tell(LARGE)
            assert two.until("Fenced")
    finally:
        server.stop()
