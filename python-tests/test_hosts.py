"""The library loads and replicates in each host, as its users would write it, each with its own SQLite.

Every host does the same: writes through `replvfs`, waits with replica_sync(), ends; a second process restores with
replica_restore(), and the restored file equals the database byte for byte.
"""

import json
import shutil

import harness
import hosts
import pytest

SCHEMA = "CREATE TABLE t(id INTEGER PRIMARY KEY, x TEXT)"
INSERT = "INSERT INTO t(x) VALUES (hex(randomblob(200)))"
ROWS = 300

# argv: extension, URI or path of the database, journal mode. Prints SQLite's version and the txid.
PYTHON_WRITER = f"""
import json, sqlite3, sys
extension, database, journal = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
c = sqlite3.connect(database, uri=True, isolation_level=None)
c.execute(f"PRAGMA journal_mode={{journal}}")
c.execute("{SCHEMA}")
for _ in range({ROWS}):
    c.execute("{INSERT}")
(txid,) = c.execute("SELECT replica_sync()").fetchone()
print(json.dumps({{"sqlite": sqlite3.sqlite_version, "txid": txid}}))
c.close()
"""

APSW_WRITER = f"""
import apsw, json, sys
extension, database, journal = sys.argv[1:]
loader = apsw.Connection(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
c = apsw.Connection(database, flags=flags)
c.execute(f"PRAGMA journal_mode={{journal}}").fetchall()
c.execute("{SCHEMA}")
for _ in range({ROWS}):
    c.execute("{INSERT}")
((txid,),) = c.execute("SELECT replica_sync()").fetchall()
print(json.dumps({{"sqlite": apsw.sqlite_lib_version(), "txid": txid}}))
c.close()
"""

NODE_WRITER = f"""
const [extension, database, journal] = process.argv.slice(2);
const {{DatabaseSync}} = require('node:sqlite');
const loader = new DatabaseSync(':memory:', {{allowExtension: true}});
loader.loadExtension(extension);
const db = new DatabaseSync(database);
db.exec(`PRAGMA journal_mode=${{journal}}; {SCHEMA}`);
for (let i = 0; i < {ROWS}; i++) db.exec('{INSERT}');
const row = db.prepare('SELECT replica_sync() AS txid, sqlite_version() AS sqlite').get();
console.log(JSON.stringify(row));
db.close();
"""

# better-sqlite3 parses no URI: the VFS is made the default, by function or by environment. argv as above, and the
# folder of the driver, its native part, and the replica URL ('' when the environment says it).
BETTER_SQLITE3_WRITER = f"""
const [extension, database, journal, driver, nativeBinding, url] = process.argv.slice(2);
const Database = require(driver);
const loader = new Database(':memory:', {{nativeBinding}});
loader.loadExtension(extension);
if (url) loader.prepare('SELECT replica_configure(?, ?, ?)').get(database, url, '{{"default_vfs": true}}');
const db = new Database(database, {{nativeBinding}});
db.pragma(`journal_mode = ${{journal}}`);
db.exec('{SCHEMA}');
for (let i = 0; i < {ROWS}; i++) db.exec('{INSERT}');
console.log(JSON.stringify(db.prepare('SELECT replica_sync() AS txid, sqlite_version() AS sqlite').get()));
const other = new Database(database + '-other', {{nativeBinding}});
other.exec('{SCHEMA}');
other.close();
db.close();
"""

C_WRITER = f"""
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

static void check(int ok, sqlite3 *db, const char *what) {{
  if (ok) return;
  fprintf(stderr, "%s: %s\\n", what, sqlite3_errmsg(db));
  exit(1);
}}

int main(int argc, char **argv) {{
  sqlite3 *loader, *db;
  sqlite3_stmt *row;
  char *text = 0, *sql;
  if (argc != 4) return 2;
  check(sqlite3_open(":memory:", &loader) == SQLITE_OK, loader, "open :memory:");
  sqlite3_db_config(loader, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int *)0);
  check(sqlite3_load_extension(loader, argv[1], 0, &text) == SQLITE_OK, loader, "load");
  check(sqlite3_close(loader) == SQLITE_OK, loader, "close");
  check(sqlite3_open_v2(argv[2], &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, "replvfs") == SQLITE_OK, db, "open");
  sql = sqlite3_mprintf("PRAGMA journal_mode=%s; {SCHEMA}", argv[3]);
  check(sqlite3_exec(db, sql, 0, 0, 0) == SQLITE_OK, db, sql);
  for (int i = 0; i < {ROWS}; i++) check(sqlite3_exec(db, "{INSERT}", 0, 0, 0) == SQLITE_OK, db, "insert");
  check(sqlite3_prepare_v2(db, "SELECT replica_sync()", -1, &row, 0) == SQLITE_OK, db, "prepare");
  check(sqlite3_step(row) == SQLITE_ROW, db, "replica_sync");
  printf("{{\\"sqlite\\": \\"%s\\", \\"txid\\": %lld}}\\n", sqlite3_libversion(), sqlite3_column_int64(row, 0));
  sqlite3_finalize(row);
  check(sqlite3_close(db) == SQLITE_OK, db, "close");
  return 0;
}}
"""

RESTORE = """
import sqlite3, sys
extension, url, copy = sys.argv[1:]
c = sqlite3.connect(":memory:")
c.enable_load_extension(True)
c.load_extension(extension)
print(c.execute("SELECT replica_restore(?, ?)", (url, copy)).fetchone()[0])
"""

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])


class Site:
    """One database, its replica, and the check at the end."""

    def __init__(self, folder, extension):
        self.extension = extension
        self.database = folder / "app.db"
        self.replica = folder / "replica"
        self.copy = folder / "copy.db"
        self.url = f"file://{self.replica}"
        self.uri = f"file:{self.database}?vfs=replvfs&replica={self.url}"

    def check(self, output, version=None):
        """What the writer printed, the restored copy, and that nothing is left beside the database."""
        report = json.loads(output.strip().splitlines()[-1])
        assert report["txid"] >= 1
        if version is not None:
            assert report["sqlite"] == version
        restored = harness.run([harness.PYTHON, "-c", RESTORE, self.extension, self.url, self.copy])
        assert int(restored) >= report["txid"]
        assert self.copy.read_bytes() == self.database.read_bytes()
        rows = harness.run(["sqlite3", self.copy, "PRAGMA integrity_check; SELECT count(*) FROM t"])
        assert rows.split() == ["ok", str(ROWS)]


@pytest.fixture
def site(tmp_path, extension):
    return Site(tmp_path, extension)


@JOURNALS
def test_debian_python(site, journal):
    site.check(harness.run([harness.PYTHON, "-c", PYTHON_WRITER, site.extension, site.uri, journal]))


@JOURNALS
def test_oldest_sqlite(site, journal):
    environment = harness.clean_environment(LD_LIBRARY_PATH=hosts.oldest_sqlite())
    command = [harness.PYTHON, "-c", PYTHON_WRITER, site.extension, site.uri, journal]
    site.check(harness.run(command, env=environment), version="3.31.1")


@JOURNALS
def test_newest_sqlite_in_apsw(site, journal):
    output = harness.run([harness.PYTHON, "-c", APSW_WRITER, site.extension, site.uri, journal])
    site.check(output, version="3.54.1")


@JOURNALS
def test_sqlite3_shell(site, journal):
    script = f"""
.load {site.extension.with_suffix('')}
.open '{site.uri}'
PRAGMA journal_mode={journal};
{SCHEMA};
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {ROWS})
  INSERT INTO t(x) SELECT hex(randomblob(200)) FROM n;
SELECT json_object('sqlite', sqlite_version(), 'txid', replica_sync());
"""
    site.check(harness.run(["sqlite3", "-batch", "-bail"], input=script))


@JOURNALS
def test_c_program_with_the_environment(site, journal, tmp_path):
    program = hosts.compiled(C_WRITER, tmp_path / "writer")
    environment = harness.clean_environment(SQLITEREPLICATE_URL=site.url)
    site.check(harness.run([program, site.extension, site.database, journal], env=environment))


@JOURNALS
def test_node_sqlite(site, journal, tmp_path):
    node, _, _ = hosts.node()
    script = tmp_path / "writer.cjs"
    script.write_text(NODE_WRITER)
    site.check(harness.run([node, script, site.extension, site.uri, journal]), version="3.53.4")


@JOURNALS
@pytest.mark.parametrize("by", ["function", "environment"])
def test_better_sqlite3_by_the_default_vfs(site, journal, by, tmp_path):
    node, driver, native = hosts.node()
    script = tmp_path / "writer.cjs"
    script.write_text(BETTER_SQLITE3_WRITER)
    environment = harness.clean_environment()
    if by == "environment":
        variables = dict(URL=site.url, DATABASE=site.database, DEFAULT_VFS=1)
        environment = harness.clean_environment(**{f"SQLITEREPLICATE_{k}": v for k, v in variables.items()})
    url = site.url if by == "function" else ""
    command = [node, script, site.extension, site.database, journal, driver, native, url]
    site.check(harness.run(command, env=environment), version="3.53.2")
    other = site.database.with_name("app.db-other")
    assert other.exists() and not other.with_name("app.db-other-replica").exists(), "others pass straight through"


def test_a_renamed_library_loads(site, tmp_path):
    renamed = tmp_path / "sqlitereplicate-linux-x86_64.so"
    shutil.copyfile(site.extension, renamed)
    site.check(harness.run([harness.PYTHON, "-c", PYTHON_WRITER, renamed, site.uri, "wal"]))
