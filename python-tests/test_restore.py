"""A restore that is killed at any step leaves no half database under its name, and nothing that the next one minds."""

import subprocess

import pytest

import harness
from databases import connect, files, sync


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A replica of a few files, one of them large, and what must come out."""
    folder = tmp_path_factory.mktemp("history")
    c = connect(folder / "app.db", folder / "replica", replica_interval="1h")
    c.execute("PRAGMA journal_mode=DELETE")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    c.execute("WITH n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<3000) INSERT INTO t(x) SELECT randomblob(900) FROM n")
    sync(c)
    for id in range(1, 2000, 190):
        c.execute("UPDATE t SET x = randomblob(900) WHERE id = ?", (id,))
        sync(c)
    c.close()
    return folder / "replica", (folder / "app.db").read_bytes()


def restore(replica, output, *around):
    command = [*around, harness.CLI, "restore", f"file://{replica}", output]
    return subprocess.run([str(word) for word in command], capture_output=True, env=harness.clean_environment())


CALLS = ["pwrite64", "fsync,fdatasync", "rename,renameat2,link,linkat", "ftruncate,fallocate", "openat,flock"]


@pytest.mark.parametrize("call", CALLS)
def test_killed_at_any_step_it_leaves_nothing_half_and_the_next_one_cleans_up(tmp_path, history, call):
    replica, expected = history
    assert any(file.stat().st_size > 256 << 10 for file in files(replica)) and len(files(replica)) > 5
    killed = 0
    for step in range(1, 400):
        folder = tmp_path / str(step)
        folder.mkdir()
        output, other = folder / "app.db", folder / "other.db"
        other.write_bytes(b"another database")
        strace = harness.killed_at(call, step)
        done = restore(replica, output, *strace)
        if done.returncode == 0:
            assert output.read_bytes() == expected and killed > 0
            return
        killed += 1
        # Whole, or not there.
        assert not output.exists() or output.read_bytes() == expected, f"step {step}"
        if not output.exists():
            again = restore(replica, output)
            assert again.returncode == 0, again.stderr
            assert output.read_bytes() == expected
        assert sorted(path.name for path in folder.iterdir()) == ["app.db", "other.db"], f"step {step}"
        assert other.read_bytes() == b"another database"
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("call", CALLS[:3])
def test_killed_at_any_step_it_harms_no_database_that_is_there(tmp_path, history, call):
    replica, _ = history
    output = tmp_path / "app.db"
    output.write_bytes(b"there before")
    for step in range(1, 4):
        done = restore(replica, output, *harness.killed_at(call, step))
        assert done.returncode != 0
        assert output.read_bytes() == b"there before" and list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("call", ["pwrite64", "fsync", "ftruncate", "renameat2", "pread64,read"])
def test_an_error_of_the_disk_leaves_nothing(tmp_path, history, call):
    replica, expected = history
    output = tmp_path / "app.db"
    failed = 0
    for step in range(1, 400, 7):
        inject = ["-P", f"{output}.0.tmp"] if "read" not in call else []
        done = restore(replica, output, "strace", "-f", "-qq", "-o", "/dev/null", *inject, "-e", f"inject={call}:error=EIO:when={step}")
        if done.returncode == 0:
            assert output.read_bytes() == expected
            output.unlink()
            break
        failed += 1
        assert list(tmp_path.iterdir()) == [], f"step {step}"
    assert failed > 0
