"""Secrets are shown nowhere; files are their owner's; links lead nowhere; a schema reaches nothing outside."""

import os
import stat
import subprocess

import pytest

import databases
import harness
import s3_servers
from databases import connect, one, sync
from shell import Shell

# Every one of these must not be found anywhere but where the test itself put it.
MARKS = {
    "environment": "MARKED+secret/of/the=environment0000000",
    "token": "MARKED+token/of/the=session",
    "file": "MARKED+secret/of/a=file000000000000000",
    "url": "MARKED+secret/in/a=url0000000000000000",
}
# Secrets where people put them by mistake.
WRONG_URLS = [
    "s3://AKIDX:{}@bkt/x",
    "s3:AKIDX:{}@bkt/x",
    "AKIDX:{}@bkt/x",
    "gs://AKIDX:{}@bkt/x",
    "https://AKIDX:{}@host/x",
    "s3://bkt/x?secret={}",
    "s3://bkt/x?aws_secret_access_key={}",
    "s3://bkt/x?{}",
    "s3://bkt/x?endpoint=http://AKIDX:{}@127.0.0.1:1",
    "s3://bkt/x?endpoint=http://127.0.0.1:1/{}?a=b",
]
WRONG_SETTINGS = ["replica_secret", "replica_secret_access_key", "replica_session_token", "replica_password"]


def check(where, text):
    text = text if isinstance(text, str) else str(text)
    for mark in MARKS.values():
        # A part of it would be enough.
        for piece in (mark, mark[:24], mark[-16:]):
            assert piece not in text, f"{where} shows a secret: {text[:2000]}"


def check_files(folder, *but):
    for path in folder.rglob("*"):
        if path.is_file() and path not in but:
            content = path.read_bytes()
            for mark in MARKS.values():
                assert mark.encode() not in content, f"{path} holds a secret"


@pytest.fixture
def marked(tmp_path):
    """An environment full of secrets, and the file that holds one."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"[default]\naws_access_key_id=AKIDFILE\naws_secret_access_key={MARKS['file']}\n"
        f"[broken]\naws_secret_access_key={MARKS['file']}\ncredential_process=/bin/echo {MARKS['file']}\n"
    )
    return credentials, {
        "AWS_ACCESS_KEY_ID": "AKIDENV",
        "AWS_SECRET_ACCESS_KEY": MARKS["environment"],
        "AWS_SESSION_TOKEN": MARKS["token"],
        "AWS_SHARED_CREDENTIALS_FILE": str(credentials),
        "AWS_EC2_METADATA_DISABLED": "true",
        "HOME": "/nonexistent",
    }


def nowhere(web, code, name):
    """A store that refuses everything and tells what it was sent, as some do."""

    def answer(method, path, headers):
        said = f"{headers.get('authorization')} x-amz-content-sha256 {headers.get('x-amz-date')}"
        return code, {}, f"<Error><Code>{name}</Code><Message>{said}</Message></Error>"

    return web(answer)


def test_no_secret_is_shown_by_anything_that_fails(process, extension, tmp_path, marked, web):
    credentials, variables = marked
    stores = [
        f"http://127.0.0.1:{s3_servers.free_port()}",
        nowhere(web, 403, "SignatureDoesNotMatch"),
        nowhere(web, 403, "AccessDenied"),
        nowhere(web, 400, "ExpiredToken"),
        nowhere(web, 500, "InternalError"),
    ]
    places = [f"s3://bkt/x?endpoint={store}&region=r" for store in stores]
    from_file = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_SESSION_TOKEN": None}
    broken = {**from_file, "AWS_PROFILE": "broken"}
    for number, change in enumerate([{}, from_file, broken]):
        environment = harness.clean_environment(**{**variables, **change})
        folder = tmp_path / f"databases-{number}"
        folder.mkdir()
        uri = databases.uri(folder / "app.db", folder / "replica")
        shell = Shell(process, extension, uri, env=environment)
        asked = ["CREATE TABLE t(x)", "SELECT replica_sync(5)"]
        wrong = [place.format(MARKS["url"]) for place in WRONG_URLS]
        for place in [*places, *wrong]:
            asked += [
                f"SELECT replica_restore('{place}', '{folder}/copy.db')",
                f"SELECT * FROM replica_files('{place}')",
                f"SELECT * FROM replica_restore_points('{place}')",
                f"SELECT * FROM replica_doctor('{place}')",
                f"SELECT replica_configure('{folder}/{len(asked)}.db', '{place}')",
                f"ATTACH 'file:{folder}/other.db?vfs=replvfs&replica={place.replace('&', '&replica_')}' AS other",
            ]
        for setting in WRONG_SETTINGS:
            asked.append(f"ATTACH 'file:{folder}/other.db?vfs=replvfs&{setting}={MARKS['url']}' AS other")
            options = f'{{"{setting}":"{MARKS["url"]}"}}'
            asked.append(f"SELECT replica_configure('{folder}/x.db', 'file://{folder}/r', '{options}')")
            nested = f'{{"x":{options}}}'
            asked.append(f"SELECT replica_configure('{folder}/x.db', 'file://{folder}/r', '{nested}')")
        asked += ["SELECT * FROM replica_status", "SELECT * FROM replica_lease", "SELECT replica_debug()", "SELECT replica_error()"]
        for sql in asked:
            # What the host itself names is the host's; SQLite repeats it in front of what we say.
            check(sql, shell.ask(sql))
        shell.finish()
        check_files(folder)
        verbs = [["list"], ["restore", "--dry-run"], ["verify"], ["doctor"], ["info"]]
        for at, place in enumerate([*places[:2], *wrong]):
            for verb in [verbs[(at + number) % len(verbs)]]:
                done = subprocess.run(
                    [harness.CLI, *verb, place], env=environment, capture_output=True, text=True, timeout=60
                )
                # Usage errors of the command line repeat its own words.
                if done.returncode != 2:
                    check(f"{verb} {place}", done.stdout + done.stderr)
        for name in ("SQLITEREPLICATE_SECRET_KEY", "SQLITEREPLICATE_URL", "SQLITEREPLICATE_INTERVAL"):
            value = MARKS["url"] if name != "SQLITEREPLICATE_URL" else WRONG_URLS[0].format(MARKS["url"])
            done = subprocess.run(
                [harness.CLI, "list", f"file://{folder}/none"],
                env={**environment, name: value}, capture_output=True, text=True, timeout=60,
            )
            if name != "SQLITEREPLICATE_INTERVAL":
                check(name, done.stdout + done.stderr)
    check_files(tmp_path, credentials)


def modes(folder):
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_what_is_made_is_its_owners_alone(process, extension, tmp_path, umask):
    # A folder for the log that was made before, for others to look into.
    log = tmp_path / "log"
    log.mkdir()
    uri = databases.uri(tmp_path / "app.db", tmp_path / "replica", replica_log=log, replica_levels="100ms,200ms,off", replica_lease="auto")
    shell = Shell(process, extension, uri, "sh", "-c", f'umask {umask:03o}; exec "$@"', "sh")
    shell.ask("PRAGMA journal_mode=WAL")
    shell.ask("CREATE TABLE t(x)")
    for _ in range(3):
        shell.ask("INSERT INTO t VALUES (randomblob(9000))")
        assert isinstance(shell.sync(20), int)
    shell.ask(f"SELECT replica_restore('file://{tmp_path}/replica', '{tmp_path}/copy.db')")
    found = {**modes(tmp_path / "replica"), **{f"log/{name}": mode for name, mode in modes(log).items()}}
    found["copy.db"] = stat.S_IMODE((tmp_path / "copy.db").stat().st_mode)
    shell.finish()
    for name, mode in {**found, **{f"log/{name}": mode for name, mode in modes(log).items()}}.items():
        assert mode & 0o077 == 0, f"{name} has mode {mode:o}"
    assert {"log/state", "log/noted", "log/checksums", "log/users", "log/lock", "ltx/0", "copy.db"} <= set(found)


def test_a_restore_writes_where_it_was_told_and_through_no_link(replica, tmp_path):
    database = tmp_path / "app.db"
    c = connect(database, replica)
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    sync(c)
    c.close()
    victim = tmp_path / "victim"
    for content in (b"precious", None):
        if content is not None:
            victim.write_bytes(content)
        else:
            victim.unlink()
        link = tmp_path / "out" / "copy.db"
        link.parent.mkdir(exist_ok=True)
        for planted in ("copy.db", "copy.db-wal", "copy.db-journal", "copy.db.0.tmp", "copy.db.1.tmp"):
            (link.parent / planted).symlink_to(victim)
            if planted.endswith(".tmp"):
                databases.restore(replica, link)
                assert not link.is_symlink()
                link.unlink()
            else:
                with pytest.raises(databases.sqlite3.OperationalError, match="cannot restore to"):
                    databases.restore(replica, link)
            for left in link.parent.iterdir():
                left.unlink()
        assert victim.read_bytes() == content if content else not victim.exists()


@pytest.mark.parametrize("name", ["state", "noted", "checksums", "lock", "users"])
def test_a_link_in_the_log_leads_nowhere(tmp_path, replica, name):
    """Whoever made the folder before us must not have us write elsewhere."""
    log, victim = tmp_path / "log", tmp_path / "victim"
    log.mkdir()
    victim.write_bytes(b"")
    (log / name).symlink_to(victim)
    with pytest.raises(databases.sqlite3.OperationalError):
        c = connect(tmp_path / "app.db", replica, replica_log=log)
        c.execute("CREATE TABLE t(x)")
        c.close()
    assert victim.read_bytes() == b""


def test_names_that_nobody_gave_are_no_files_of_a_replica(tmp_path, replica):
    c = connect(tmp_path / "app.db", replica)
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    txid = sync(c)
    c.close()
    level = replica / "ltx" / "0"
    first = databases.files(replica)[0]
    content = first.read_bytes()
    for planted in (
        b"..ltx", b"0000000000000002-0000000000000002.ltx\n", b"\xff\xfe.ltx", b"0000000000000002-0000000000000001.ltx",
        b"0000000000000000-0000000000000000.ltx", b"ffffffffffffffff-ffffffffffffffff.ltx", b"-0000000000000002.ltx",
        b"0000000000000002-0000000000000002.ltx.", b"+000000000000002-0000000000000002.ltx",
    ):
        with open(os.path.join(os.fsencode(level), planted), "wb") as file:
            file.write(content)
    os.mkfifo(level / "0000000000000002-0000000000000002.ltx")
    (level / "0000000000000003-0000000000000003.ltx").symlink_to("/dev/zero")
    (level / "0000000000000004-0000000000000004.ltx").symlink_to(level)
    assert databases.restore(replica, tmp_path / "copy.db") == txid
    printed = harness.run([harness.CLI, "verify", databases.url(replica)])
    assert "ffffffff" not in printed


# What only tells, and may be asked from a schema.
TELL_ONLY = {"replica_version", "replica_debug", "replica_error", "replica_txid", "replica_status"}


def test_a_hostile_schema_reaches_nothing_outside(tmp_path, replica):
    c = connect(tmp_path / "app.db", replica)
    c.execute("PRAGMA trusted_schema=ON")
    c.execute("CREATE TABLE t(x)")
    functions = c.execute("SELECT DISTINCT name, narg FROM pragma_function_list WHERE name LIKE 'replica%'").fetchall()
    tables = [name for (name,) in c.execute("SELECT name FROM pragma_module_list WHERE name LIKE 'replica%'")]
    assert len({name for name, _ in functions}) >= 15 and len(tables) >= 5, (functions, tables)
    tried = 0
    for number, (name, arguments) in enumerate(functions):
        if name in TELL_ONLY:
            continue
        call = f"{name}({', '.join(['1'] * max(arguments, 0))})"
        for kind in (
            f"CREATE VIEW v{number} AS SELECT {call}",
            f"CREATE TRIGGER g{number} AFTER INSERT ON t BEGIN SELECT {call}; END",
            f"CREATE TABLE d{number}(x DEFAULT ({call}))",
            f"CREATE TABLE k{number}(x, y AS ({call}))",
            f"CREATE INDEX i{number} ON t({call})",
            f"CREATE TABLE c{number}(x CHECK ({call}))",
        ):
            uses = {"VIEW": f"SELECT * FROM v{number}", "TRIGGER": "INSERT INTO t VALUES (1)", "TABLE": None, "INDEX": None}
            what = kind.split()[1]
            use = uses[what] or f"INSERT INTO {kind.split()[2].split('(')[0]}(x) VALUES (1)"
            with pytest.raises(databases.sqlite3.OperationalError) as error:
                c.execute(kind)
                if "DEFAULT" in kind:
                    use = f"INSERT INTO d{number} DEFAULT VALUES"
                elif "y AS" in kind:
                    use = f"SELECT * FROM k{number}"
                    c.execute(f"INSERT INTO k{number}(x) VALUES (1)")
                c.execute(use)
            text = str(error.value)
            assert "unsafe use" in text or "prohibited" in text or "non-deterministic" in text, f"{kind}: {text}"
            if what == "TRIGGER":
                c.execute(f"DROP TRIGGER g{number}")
            tried += 1
    for number, name in enumerate(table for table in tables if table not in TELL_ONLY):
        c.execute(f"CREATE VIEW w{number} AS SELECT * FROM {name}")
        with pytest.raises(databases.sqlite3.OperationalError, match="unsafe use"):
            c.execute(f"SELECT * FROM w{number}")
        tried += 1
    assert tried > 60
    # What a statement itself asks for is done when it is reached, and not before.
    copy = tmp_path / "copy.db"
    call = f"replica_restore('{databases.url(replica)}', '{copy}')"
    c.execute("INSERT INTO t VALUES (1)")
    sync(c)
    for sql in (f"SELECT {call} WHERE 0", f"SELECT CASE WHEN 0 THEN {call} END", f"SELECT {call} FROM t WHERE x < 0", f"SELECT coalesce(1, {call})"):
        c.execute(sql).fetchall()
        assert not copy.exists(), sql
    c.execute(f"SELECT {call} WHERE 1").fetchall()
    assert copy.exists()
    c.close()
