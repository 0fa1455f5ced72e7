"""The program as a stranger uses it: what it prints, as what it exits, and that its help is true."""

import json
import os
import signal
import sqlite3
import subprocess

import databases
import harness
import pytest
from databases import connect, plain, sync

VERBS = ["restore", "list", "info", "verify", "compact", "snapshot", "doctor", "export", "import", "replicate", "delete", "completion"]


def cli(*words, typed="", env=None, text=True):
    """Exit code, standard output, standard errors."""
    done = subprocess.run(
        [str(word) for word in (harness.CLI, *words)],
        input=typed if text else typed.encode(),
        capture_output=True,
        text=text,
        timeout=60,
        env=env or harness.clean_environment(),
    )
    return done.returncode, done.stdout, done.stderr


def answer(*words, **options):
    """The JSON of a call that went well."""
    code, out, err = cli(*words, "--json", **options)
    assert code == 0, (out, err)
    return json.loads(out)


def rows(path):
    c = plain(path)
    try:
        assert c.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [x for (x,) in c.execute("SELECT x FROM t ORDER BY rowid")]
    finally:
        c.close()


@pytest.fixture
def app(tmp_path, replica):
    """A replica of three txids, one row each."""
    c = connect(tmp_path / "app.db", replica, replica_interval="0")
    c.execute("CREATE TABLE t(x)")
    for x in ["one", "two", "three"]:
        c.execute("INSERT INTO t VALUES (?)", (x,))
        sync(c)
    c.close()
    return databases.url(replica)


def test_help_names_every_verb_and_each_has_an_example():
    code, out, err = cli("--help")
    assert (code, err) == (0, "")
    for verb in VERBS:
        assert f"  {verb} " in out
        code, out_of_verb, _ = cli(verb, "--help")
        assert code == 0 and f"  sqlitereplicate {verb} " in out_of_verb
    assert cli("help", "restore")[0] == 0
    assert cli("--version")[1].startswith("sqlitereplicate ")


@pytest.mark.parametrize(
    "words", [[], ["restore"], ["restor", "a", "b"], ["list", "a", "b"], ["list", "--nonsense", "a"], ["delete"]]
)
def test_what_is_not_understood_exits_2_on_stderr(words):
    code, out, err = cli(*words)
    assert (code, out) == (2, "")
    assert err.startswith("sqlitereplicate: ") and "--help" in err


def test_restore_by_txid_and_time(app, tmp_path):
    points = answer("list", "--points", app)
    assert [point["txid"] for point in points] == list(range(1, len(points) + 1))
    newest = points[-1]["txid"]
    for n, (how, what) in enumerate([("--txid", newest - 1), ("--timestamp", points[-2]["timestamp"])]):
        path = tmp_path / f"{n}.db"
        restored = answer("restore", how, what, app, path)
        if how == "--txid" or points[-1]["timestamp"] != points[-2]["timestamp"]:
            assert restored["txid"] == newest - 1 and rows(path) == ["one", "two"]
    code, out, err = cli("restore", "--timestamp", "2099-01-01T00:00:00Z", app, tmp_path / "late.db")
    assert code == 0 and "notice: 2099-01-01T00:00:00.000Z is later than the newest state" in err
    assert rows(tmp_path / "late.db") == ["one", "two", "three"]
    code, out, err = cli("restore", "--timestamp", "2001-01-01T00:00:00Z", app, tmp_path / "early.db")
    assert code == 1 and f"the first restorable moment is {points[0]['timestamp']}" in err
    assert not (tmp_path / "early.db").exists()


def test_a_dry_run_prints_what_a_restore_reads(app, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    plan = answer("restore", "--dry-run", app)
    code, out, _ = cli("restore", "--dry-run", app)
    assert code == 0 and f"would restore txid {plan['txid']} " in out
    assert sorted(tmp_path.rglob("*")) == before
    restored = answer("restore", app, tmp_path / "copy.db")
    assert (restored["txid"], restored["files"]) == (plan["txid"], len(plan["files"]))
    assert restored["bytes"] == plan["bytes"] == sum(file["size"] for file in plan["files"])


def test_list_info_verify_and_doctor_answer_in_json(app, tmp_path, replica):
    files = answer("list", app)
    assert {"level", "min_txid", "max_txid", "size", "created_at", "proof"} == set(files[0])
    info = answer("info", app)
    assert info["files"] == len(files) and info["txid"] == max(file["max_txid"] for file in files)
    assert info["first_txid"] == 1 and info["newest_is_restorable"]
    verified = answer("verify", app)
    assert verified["ok"] and verified["verified_txid"] == info["txid"]
    below = answer("list", "--databases", f"file://{tmp_path}")
    assert [database["url"] for database in below] == [app]
    assert {row["verdict"] for row in answer("doctor", app)} <= {"good", ""}
    for verb in ["list", "info", "verify", "doctor"]:
        code, out, err = cli(verb, app)
        assert (code, err) == (0, "") and out
    databases.files(replica)[1].write_bytes(b"LTX1")
    code, out, err = cli("verify", "--json", app)
    assert code == 3 and not json.loads(out)["ok"] and err


def test_a_failure_in_json_is_one_value_too(tmp_path):
    code, out, err = cli("info", "--json", f"file://{tmp_path}/none")
    assert code == 1 and json.loads(out)["kind"] == "not_found" and err
    missing = ["restore", "--if-replica-exists", f"file://{tmp_path}/none", tmp_path / "x.db"]
    assert cli(*missing)[0] == 0 and not (tmp_path / "x.db").exists()


def test_export_streams_a_database(app, tmp_path):
    code, out, err = cli("export", app, text=False)
    assert (code, err) == (0, b"")
    (tmp_path / "piped.db").write_bytes(out)
    assert rows(tmp_path / "piped.db") == ["one", "two", "three"]
    assert answer("export", "--txid", 1, "-o", tmp_path / "file.db", app)["txid"] == 1
    code, _, err = cli("export", "-o", tmp_path / "file.db", app)
    assert code == 1 and "it exists" in err


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_import_makes_a_replica_of_a_plain_file(tmp_path, journal):
    source, url = tmp_path / "it's a %41 file?.db", f"file://{tmp_path}/new"
    c = plain(source)
    c.execute(f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(x)")
    c.executemany("INSERT INTO t VALUES (?)", [(str(i) * 100,) for i in range(2000)])
    # Another program has it open, with its rows in the WAL.
    imported = answer("import", source, url)
    assert imported["txid"] == 1
    expected = rows(source)
    c.close()
    answer("restore", url, tmp_path / "copy.db")
    assert rows(tmp_path / "copy.db") == expected
    assert not list(tmp_path.glob("*-replica")), "nothing is left beside it"
    code, _, err = cli("import", source, url)
    assert code == 1 and "holds a history up to txid 1" in err
    code, _, err = cli("import", tmp_path / "none.db", f"file://{tmp_path}/other")
    assert code == 1 and "none.db" in err
    assert not (tmp_path / "none.db").exists() and not (tmp_path / "other").exists()


def test_compact_and_snapshot_do_what_the_writer_would(app, tmp_path, replica):
    made = answer("snapshot", app)
    newest = made["txid"]
    assert made["bytes"] > 0 and databases.files(replica, 9)[0].name == f"{1:016x}-{newest:016x}.ltx"
    again = cli("snapshot", app)
    assert again[0] == 0 and f"there is a snapshot of txid {newest} " in again[2]
    # Ticks of a millisecond: all of it is due.
    options = ["--levels", "1ms,off,off", "--l0-retention", "1ms"]
    done = answer("compact", *options, app)
    assert done["created"] > 0 and done["deleted"] == newest - 2, "the two newest of level 0 stay"
    assert [file.name for file in databases.files(replica, 0)] == [f"{n:016x}-{n:016x}.ltx" for n in (newest - 1, newest)]
    assert answer("compact", *options, app) == {"txid": newest, "created": 0, "deleted": 0}
    assert answer("verify", app)["ok"] is True
    cli("restore", app, tmp_path / "r.db")
    assert rows(tmp_path / "r.db") == ["one", "two", "three"]
    code, _, err = cli("compact", "--retention", "soon", app)
    assert code == 1 and "replica_retention='soon'" in err
    (tmp_path / "empty").mkdir()
    code, _, err = cli("snapshot", f"file://{tmp_path}/empty")
    assert code == 1 and "holds no LTX files" in err


def test_delete_asks_for_the_name(app, tmp_path, replica):
    code, _, err = cli("delete", app, typed="something\n")
    assert code == 1 and "nothing was deleted" in err and databases.files(replica)
    code, out, _ = cli("delete", app, typed="replica\n")
    assert code == 0 and out.startswith("deleted ") and not replica.exists()


def test_delete_with_yes_asks_nobody(app, replica):
    assert answer("delete", "--yes", app)["files"] > 0
    assert not replica.exists()


def test_completion_is_a_script_that_the_shell_takes(tmp_path):
    code, out, _ = cli("completion", "bash")
    (tmp_path / "script").write_text(out)
    words = harness.run(
        ["bash", "-c", "source ./script; COMP_WORDS=(sqlitereplicate re); COMP_CWORD=1; _sqlitereplicate sqlitereplicate re sqlitereplicate; "
         'printf "%s\\n" "${COMPREPLY[@]}"'],
        cwd=tmp_path,
    )
    assert set(words.split()) == {"restore", "replicate"}


@pytest.mark.parametrize("terminal, is_shown", [("xterm", True), ("dumb", False), (None, False)])
def test_progress_is_shown_to_a_terminal_only(app, tmp_path, terminal, is_shown):
    words = [str(w) for w in (harness.CLI, "verify", app)]
    typescript = tmp_path / "typescript"
    harness.run(["script", "-qec", " ".join(words), typescript], env=harness.clean_environment(TERM=terminal))
    seen = typescript.read_text()
    assert "proven up to txid" in seen and ("\x1b[" in seen) == is_shown
    assert cli("verify", app)[2] == ""


# ---- the sidecar


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_replicate_follows_a_program_without_the_extension(tmp_path, journal, end):
    database, url = tmp_path / "app.db", f"file://{tmp_path}/replica"
    c = plain(database)
    c.execute(f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(x)")
    with harness.Process([harness.CLI, "replicate", database, url]) as sidecar:
        sidecar.until("is followed")
        for n in range(50):
            c.execute("INSERT INTO t VALUES (?)", (str(n),))
        harness.wait_for(lambda: databases.files(tmp_path / "replica"), "something in the replica")
        c.execute("INSERT INTO t VALUES ('last')")
        # The signal comes before the next look of the sidecar: the last flush takes what was committed.
        sidecar.child.send_signal(end)
        sidecar.finish()
    assert sidecar.child.returncode == 0
    answer("restore", url, tmp_path / "copy.db")
    assert rows(tmp_path / "copy.db") == [str(n) for n in range(50)] + ["last"]
    c.execute("INSERT INTO t VALUES ('after')")
    assert cli("replicate", "--once", database, url)[0] == 0
    answer("restore", url, tmp_path / "again.db")
    assert rows(tmp_path / "again.db")[-2:] == ["last", "after"]


def test_replicate_takes_rules_and_finds_new_databases(tmp_path):
    (tmp_path / "data").mkdir()
    config = tmp_path / "rules.json"
    config.write_text(json.dumps([{"path": f"{tmp_path}/data/*.db", "replica": f"file://{tmp_path}/r/{{name}}"}]))

    def make(name):
        c = plain(tmp_path / "data" / name)
        c.execute("PRAGMA journal_mode=WAL")
        c.execute("CREATE TABLE t(x)")
        c.execute("INSERT INTO t VALUES (?)", (name,))
        return c

    open_ones = [make("one.db"), make("two.db")]
    with harness.Process([harness.CLI, "replicate", "--config", config]) as sidecar:
        sidecar.until("one.db is followed")
        sidecar.until("two.db is followed")
        open_ones.append(make("three.db"))
        sidecar.until("three.db is followed")
        sidecar.child.send_signal(signal.SIGTERM)
        sidecar.finish()
    for name in ["one.db", "two.db", "three.db"]:
        answer("restore", f"file://{tmp_path}/r/{name}", tmp_path / name)
        assert rows(tmp_path / name) == [name]


def test_replicate_says_what_it_could_not_send(tmp_path):
    database, folder = tmp_path / "app.db", tmp_path / "replica"
    c = plain(database)
    c.execute("CREATE TABLE t(x)")
    with harness.Process([harness.CLI, "replicate", "--flush-timeout", "1", database, f"file://{folder}"]) as sidecar:
        sidecar.until("is followed")
        harness.wait_for(lambda: databases.files(folder), "something in the replica")
        os.rename(folder, tmp_path / "away")
        c.execute("INSERT INTO t VALUES ('late')")
        sidecar.child.send_signal(signal.SIGTERM)
        sidecar.until("not in their replica")
        assert sidecar.child.wait(30) == 4


def test_replicate_refuses_what_is_no_database(tmp_path):
    (tmp_path / "text.db").write_text("no database at all, but long enough to look at twice" * 100)
    for name in ["none.db", "text.db"]:
        code, _, err = cli("replicate", "--once", tmp_path / name, f"file://{tmp_path}/r")
        assert code == 1 and name in err, err
    assert not (tmp_path / "none.db").exists()
