"""We are a guest in somebody else's process: it forks, ends without a word, loads us twice, and has two SQLites."""

import sqlite3
import subprocess

import harness
import hosts
import pytest

LOAD = """
import multiprocessing, os, sqlite3, sys, threading
extension, folder = sys.argv[1:3]
def load(path=":memory:"):
    c = sqlite3.connect(path, uri=True)
    c.enable_load_extension(True)
    c.load_extension(extension)
    return c
def connect(name):
    uri = f"file:{folder}/{name}.db?vfs=replvfs&replica=file://{folder}/{name}"
    return sqlite3.connect(uri, uri=True, isolation_level=None)
def fill(c, journal="WAL", rows=50):
    c.execute(f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE IF NOT EXISTS t(x)")
    for _ in range(rows):
        c.execute("INSERT INTO t VALUES (randomblob(100))")
def sync(c):
    return c.execute("SELECT replica_sync()").fetchone()[0]
"""

# What a child does after a fork: its own database, while the parent's goes on.
CHILD = """
def child():
    c = connect("child")
    fill(c)
    print("child", sync(c), flush=True)
    c.close()
"""


def rows(path):
    with sqlite3.connect(path) as c:
        return c.execute("SELECT count(*) FROM t").fetchone()[0]


def same(folder, name, count):
    """The replica restores to what the database is, with that many rows."""
    restored = folder / f"{name}-restored.db"
    harness.run([harness.CLI, "restore", f"file://{folder / name}", restored])
    database = folder / f"{name}.db"
    with sqlite3.connect(database) as c:
        c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert rows(restored) == count
    assert restored.read_bytes() == database.read_bytes()


def python(extension, folder, script, **options):
    return harness.run([harness.PYTHON, "-u", "-c", LOAD + script, extension, folder], **options)


@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)"])
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_forked_child_opens_its_own_and_leaves_the_parent_alone(extension, tmp_path, end, journal):
    """The child ends without running handlers, or with them: neither may touch or wait for what is the parent's."""
    script = CHILD + f"""
load()
c = connect("parent")
fill(c, "{journal}")
for turn in range(3):
    # While the worker is at it.
    c.execute("INSERT INTO t VALUES (randomblob(100000))")
    pid = os.fork()
    if pid == 0:
        child()
        {end}
    fill(c, "{journal}", 20)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
print("parent", sync(c), c.execute("SELECT state FROM replica_status").fetchone()[0])
c.execute("INSERT INTO t VALUES (1)")
c.close()
"""
    printed = python(extension, tmp_path, script).splitlines()
    assert len([line for line in printed if line.startswith("child")]) == 3
    assert printed[-1].endswith(" Live")
    same(tmp_path, "parent", 50 + 3 * 21 + 1)
    same(tmp_path, "child", 150)


def test_child_may_drop_the_parents_connection(extension, tmp_path):
    """Not allowed by SQLite, but what a garbage collector does: the parent goes on undisturbed."""
    script = """
load()
c = connect("parent")
fill(c, "WAL", 20)
sync(c)
pid = os.fork()
if pid == 0:
    del c
    sys.exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status
fill(c, "WAL", 20)
print(sync(c))
c.close()
"""
    python(extension, tmp_path, script)
    same(tmp_path, "parent", 40)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_children_write_beside_the_parent(extension, tmp_path, method):
    """One database, written by the parent before and after, and by three children at once. It is closed meanwhile:
    SQLite itself forbids a child to use a file that its parent has open at the fork."""
    program = tmp_path / "program.py"
    program.write_text(LOAD.replace("sys.argv[1:3]", "sys.argv[1:3] if len(sys.argv) > 1 else ('', '')") + f"""
def write(arguments):
    global extension, folder
    extension, folder = arguments
    load()
    c = connect("shared")
    c.execute("PRAGMA busy_timeout=20000")
    for _ in range(50):
        c.execute("INSERT INTO t VALUES (randomblob(100))")
    txid = sync(c)
    c.close()
    return txid
if __name__ == "__main__":
    load()
    c = connect("shared")
    c.execute("PRAGMA busy_timeout=20000")
    fill(c)
    c.close()
    with multiprocessing.get_context("{method}").Pool(3) as pool:
        txids = pool.map(write, [(extension, folder)] * 3)
    c = connect("shared")
    fill(c)
    assert sync(c) > max(txids)
    c.close()
""")
    harness.run([harness.PYTHON, program, extension, tmp_path])
    same(tmp_path, "shared", 250)


@pytest.mark.parametrize("end", ["", "c.close()", "sys.exit(3)", "raise RuntimeError('the end')", "os.kill(os.getpid(), 15)"])
@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_end_of_the_process_flushes(extension, tmp_path, end, journal):
    """Whatever ends it but a signal, what was committed is in the replica; a long interval does not delay that."""
    script = f"""
load()
c = sqlite3.connect(f"file:{{folder}}/app.db?vfs=replvfs&replica=file://{{folder}}/app&replica_interval=1h", uri=True, isolation_level=None)
fill(c, "{journal}")
print("committed")
{end}
"""
    command = [harness.PYTHON, "-u", "-c", LOAD + script, extension, tmp_path]
    done = subprocess.run(command, env=harness.clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "committed\n", done.stderr
    assert done.returncode == (-15 if "kill" in end else 3 if "exit" in end else 1 if "raise" in end else 0)
    if "kill" in end:
        # Nobody was asked: the next open brings it.
        python(extension, tmp_path, 'load(); c = connect("app"); c.execute("SELECT * FROM t"); sync(c)')
    same(tmp_path, "app", 50)


def test_loading_twice_and_in_many_threads_is_harmless(extension, tmp_path):
    script = """
first = load()
first.load_extension(extension)
def work(number):
    try:
        for _ in range(10):
            load().execute("SELECT replica_version()").fetchone()
        c = connect(f"db{number}")
        fill(c, rows=10)
        sync(c)
        c.close()
    except BaseException as error:
        print(error)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert first.execute("SELECT count(*) FROM pragma_function_list WHERE name='replica_version'").fetchone()[0] >= 1
"""
    assert python(extension, tmp_path, script) == ""
    for number in range(8):
        same(tmp_path, f"db{number}", 10)


def test_attempts_to_unload_are_harmless(extension, tmp_path):
    """The library stays although every handle on it is given back, also while it replicates."""
    script = """
import ctypes, _ctypes
c = load()
for _ in range(5):
    _ctypes.dlclose(ctypes.CDLL(extension)._handle)
load().close()
c.close()
for _ in range(20):
    try:
        _ctypes.dlclose(ctypes.CDLL(extension)._handle)
    except OSError:
        pass
handle = ctypes.CDLL(extension)._handle
for _ in range(10):
    _ctypes.dlclose(handle)
c = connect("app")
fill(c)
sync(c)
c.close()
"""
    python(extension, tmp_path, script)
    same(tmp_path, "app", 50)


@pytest.mark.parametrize("first", ["sqlite3", "apsw"])
def test_two_sqlite_libraries_in_one_process_both_replicate(extension, tmp_path, first):
    script = f"""
import apsw
def load_apsw():
    c = apsw.Connection(":memory:")
    c.enable_load_extension(True)
    c.load_extension(extension)
for which in (load, load_apsw) if "{first}" == "sqlite3" else (load_apsw, load):
    which()
flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
a = connect("app")
b = apsw.Connection(f"file:{{folder}}/other.db?vfs=replvfs&replica=file://{{folder}}/other", flags=flags)
assert apsw.sqlite_lib_version() != sqlite3.sqlite_version
b.execute("PRAGMA journal_mode=WAL; CREATE TABLE t(x)").fetchall()
fill(a, rows=0)
for _ in range(50):
    a.execute("INSERT INTO t VALUES (randomblob(100))")
    b.execute("INSERT INTO t VALUES (randomblob(100))")
((txid,),) = b.execute("SELECT replica_sync()").fetchall()
print(sync(a), txid)
b.close()
a.close()
"""
    python(extension, tmp_path, script)
    same(tmp_path, "app", 50)
    same(tmp_path, "other", 50)


SINGLE_THREADED = """
#include <sqlite3.h>
#include <stdio.h>
int main(int argc, char **argv) {
  sqlite3 *db;
  char *text = 0;
  int rc;
  if (argc != 2 || sqlite3_config(SQLITE_CONFIG_SINGLETHREAD) || sqlite3_open(":memory:", &db)) return 2;
  sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int *)0);
  rc = sqlite3_load_extension(db, argv[1], 0, &text);
  printf("%d %s\\n", rc, text ? text : "loaded");
  return sqlite3_exec(db, "SELECT 1", 0, 0, 0);
}
"""


def test_sqlite_without_mutexes_is_refused(extension, tmp_path):
    program = hosts.compiled(SINGLE_THREADED, tmp_path / "host")
    printed = harness.run([program, extension])
    assert printed.startswith("1 ") and "mutex" in printed, printed


def test_sqlite_that_is_too_old_is_refused(extension, tmp_path):
    """A host that says that it is 3.30.1: Debian's library behind a shim of that one function."""
    shim = tmp_path / "old.so"
    source = 'const char *sqlite3_libversion(void){return "3.30.1";} int sqlite3_libversion_number(void){return 3030001;}'
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", shim, "-x", "c", "-"], input=source, text=True, check=True)
    command = ["/usr/bin/python3", "-c", LOAD + "load()", extension, tmp_path]
    done = subprocess.run(command, env=harness.clean_environment(LD_PRELOAD=shim), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "3.30.1" in done.stderr and "3.31.0" in done.stderr, done.stderr


def test_last_close_does_not_wait_for_what_cannot_come(extension, tmp_path):
    (tmp_path / "none.db").write_text("This is no database. " * 100)
    script = """
load()
uri = f"file:{folder}/none.db?vfs=replvfs&replica=file://{folder}/none&replica_flush_timeout=1h"
c = sqlite3.connect(uri, uri=True)
try:
    c.execute("SELECT * FROM sqlite_master")
except sqlite3.DatabaseError as error:
    print(error)
c.close()
print("closed")
"""
    printed = python(extension, tmp_path, script, timeout=60).splitlines()
    assert printed == ["file is not a database", "closed"]


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_closed_database_leaves_no_descriptor(extension, tmp_path, journal):
    script = f"""
load()
for n in range(100):
    c = connect("app")
    fill(c, "{journal}", rows=1)
    c.close()
    targets = [os.path.realpath("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")]
    left = [target for target in targets if target.startswith(folder + "/app.db")]
    assert not left, (n, left)
"""
    python(extension, tmp_path, script)
