"""The shared library itself: what is in it, what it needs, how it loads."""

import re

import harness
import hosts
import pytest

SIZE_MAX = 5 * 1024 * 1024

LOADER = r"""
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <pthread.h>
static const char *library;
static void *open_and_load(void *result){
  sqlite3 *db = 0; char *error = 0;
  long round, failed = 0;
  for(round=0; round<20; round++){
    if( sqlite3_open(":memory:", &db) ) failed++;
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int*)0);
    if( sqlite3_load_extension(db, library, 0, &error) ) failed++;
    if( sqlite3_exec(db, "SELECT replica_version()", 0, 0, &error) ) failed++;
    sqlite3_close(db);
  }
  *(long*)result = failed;
  return 0;
}
int main(int argc, char **argv){
  pthread_t thread[8]; long failed[8]; int i, vfs = 0; sqlite3_vfs *at;
  library = argv[1];
  if( argc>2 && strcmp(argv[2], "single")==0 ){
    sqlite3 *db = 0; char *error = 0;
    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    sqlite3_open(":memory:", &db);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int*)0);
    i = sqlite3_load_extension(db, library, 0, &error);
    printf("%d %s\n", i, error ? error : "");
    printf("vfs %s\n", sqlite3_vfs_find("replvfs") ? "registered" : "absent");
    return sqlite3_close(db);
  }
  for(i=0; i<8; i++) pthread_create(&thread[i], 0, open_and_load, &failed[i]);
  for(i=0; i<8; i++) pthread_join(thread[i], 0);
  for(i=0; i<8; i++) printf("failed %ld\n", failed[i]);
  for(at=sqlite3_vfs_find(0); at; at=at->pNext) vfs += strcmp(at->zName, "replvfs")==0;
  printf("vfs %d\n", vfs);
  return 0;
}
"""


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    return hosts.compiled(LOADER, tmp_path_factory.mktemp("loader") / "loader", "-lpthread")


def test_it_is_small_and_exports_its_two_entries_only(extension):
    assert extension.stat().st_size <= SIZE_MAX
    names = [line.split()[-1] for line in harness.run(["nm", "-D", "--defined-only", extension]).splitlines()]
    assert sorted(names) == ["sqlite3_extension_init", "sqlite3_sqlitereplicate_init"]


def test_it_needs_the_c_library_only_and_stays_loaded(extension):
    dynamic = harness.run(["readelf", "-d", extension])
    needed = {name.split(".so")[0] for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)}
    assert needed <= {"libgcc_s", "libc", "ld-linux-x86-64", "ld-linux-aarch64"}
    assert "NODELETE" in dynamic


def test_no_sqlite_is_inside(extension):
    undefined = harness.run(["nm", "-D", "--undefined-only", extension])
    assert "sqlite3_" not in undefined, "it must take SQLite from its host's table"
    content = extension.read_bytes()
    # Every SQLite carries its source id, its version beside it, and the text of its first error codes.
    assert not re.search(rb"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [0-9a-f]{64}", content)
    for text in (b"SQLite format 3\x00CREATE", b"unable to open a temporary database file", b"sqlite_stat4"):
        assert text not in content


def test_loading_from_many_threads_again_and_again_is_harmless(extension, loader):
    printed = harness.run([loader, extension])
    assert printed.splitlines() == ["failed 0"] * 8 + ["vfs 1"]


def test_a_host_without_mutexes_is_refused_with_the_reason(extension, loader):
    printed = harness.run([loader, extension, "single"])
    code, vfs = printed.splitlines()
    assert code.startswith("1 ") and "without mutexes" in code
    assert vfs == "vfs absent"


def test_the_vfs_outlives_the_connection_that_loaded_it(extension, tmp_path):
    script = f"""
import sqlite3
c = sqlite3.connect(":memory:"); c.enable_load_extension(True); c.load_extension({str(extension)!r}); c.close()
c = sqlite3.connect("file:{tmp_path}/a.db?vfs=replvfs&replica=none", uri=True)
c.execute("create table t(x)"); print(c.execute("select replica_version()").fetchone()[0])
"""
    assert re.match(r"\d+\.\d+\.\d+\n", harness.run([harness.PYTHON, "-c", script]))


def test_two_sqlite_libraries_in_one_process_answer_for_themselves(extension):
    script = f"""
import apsw, sqlite3
one = sqlite3.connect(":memory:"); one.enable_load_extension(True); one.load_extension({str(extension)!r})
two = apsw.Connection(":memory:"); two.enable_load_extension(True); two.load_extension({str(extension)!r})
again = sqlite3.connect(":memory:")
sql = "select 1 from pragma_function_list where name = 'replica_version'"
assert again.execute(sql).fetchone() and list(apsw.Connection(":memory:").execute(sql))
print(one.execute("select replica_version()").fetchone() == next(iter(two.execute("select replica_version()"))))
"""
    assert harness.run([harness.PYTHON, "-c", script]) == "True\n"


def test_the_default_vfs_by_the_environment_sees_opens_that_name_none(extension, tmp_path):
    stats = tmp_path / "stats"
    script = f"""
import sqlite3
c = sqlite3.connect(":memory:"); c.enable_load_extension(True); c.load_extension({str(extension)!r})
d = sqlite3.connect("{tmp_path}/a.db"); d.execute("create table if not exists t(x)"); d.execute("insert into t values (1)"); d.commit(); d.close()
"""
    seams = {"SQLITEREPLICATE_TEST_WRAP": 1, "SQLITEREPLICATE_TEST_STATS": stats}
    for default, expected in ((None, False), (1, True)):
        stats.write_text("")
        environment = harness.clean_environment(SQLITEREPLICATE_DEFAULT_VFS=default, **seams)
        harness.run([harness.PYTHON, "-c", script], env=environment)
        assert ("xWrite" in stats.read_text()) == expected


def test_a_forked_child_closes_and_goes_on(extension, tmp_path):
    script = f"""
import os, sqlite3
c = sqlite3.connect(":memory:"); c.enable_load_extension(True); c.load_extension({str(extension)!r})
d = sqlite3.connect("file:{tmp_path}/a.db?vfs=replvfs&replica=none", uri=True)
d.execute("pragma journal_mode=wal"); d.execute("create table t(x)")
pid = os.fork()
if pid == 0:
    d.close()
    e = sqlite3.connect("file:{tmp_path}/b.db?vfs=replvfs&replica=none", uri=True)
    e.execute("create table t(x)"); e.close()
    os._exit(0)
print(os.waitpid(pid, 0)[1])
d.execute("insert into t values (1)"); d.commit()
print(d.execute("select count(*) from t").fetchone()[0])
"""
    wrapped = harness.clean_environment(SQLITEREPLICATE_TEST_WRAP=1)
    for environment in (harness.clean_environment(), wrapped):
        for name in ("a.db", "a.db-wal", "a.db-shm", "b.db"):
            (tmp_path / name).unlink(missing_ok=True)
        assert harness.run([harness.PYTHON, "-c", script], env=environment) == "0\n1\n"
