"""What a user gets for bad input where the shell does not show it all: damaged replicas, foreign writers, loading."""

import json
import shutil
import sqlite3
import threading

import pytest

import databases
import harness
from databases import assert_equal, connect, one, plain, status, sync


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


def groups(database, replica, count=5):
    """A replica of `count` level-0 files."""
    c = connect(database, replica)
    one(c, "PRAGMA journal_mode=wal")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    sync(c)
    while len(databases.files(replica)) < count:
        c.execute("INSERT INTO t(x) VALUES (randomblob(3000))")
        sync(c)
    c.close()
    return databases.files(replica)


def truncate(files):
    content = files[2].read_bytes()
    files[2].write_bytes(content[: len(content) // 2])
    return files[2], ["is damaged at byte"]


def cut_to_nothing(files):
    files[2].write_bytes(b"")
    return files[2], ["is damaged at byte 0"]


def flip(files):
    content = bytearray(files[2].read_bytes())
    content[len(content) // 2] ^= 0x10
    files[2].write_bytes(content)
    return files[2], ["is damaged at byte"]


def flip_header(files):
    content = bytearray(files[2].read_bytes())
    content[0] ^= 0xFF
    files[2].write_bytes(content)
    return files[2], ["is damaged at byte 0"]


def append(files):
    files[2].write_bytes(files[2].read_bytes() + b"x")
    return files[2], ["is damaged at byte"]


def swap(files):
    one, other = files[1].read_bytes(), files[2].read_bytes()
    files[1].write_bytes(other)
    files[2].write_bytes(one)
    return files[2], ["txid"]


def replace(files):
    """A file of another history under the right name, undamaged."""
    donor = files[0].parents[3] / "donor"
    donor.mkdir()
    other = groups(donor / "app.db", donor / "replica")
    shutil.copyfile(other[2], files[2])
    return files[2], ["checksum"]


def remove(files):
    files[2].unlink()
    return None, ["0000000000000003"]


def remove_first(files):
    files[0].unlink()
    return None, ["0000000000000001"]


DAMAGES = [truncate, cut_to_nothing, flip, flip_header, append, swap, replace, remove, remove_first]


@pytest.mark.parametrize("by", ["function", "program"])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
def test_damaged_replica_restores_to_nothing_and_says_why(database, replica, tmp_path, damage, by):
    file, words = damage(groups(database, replica))
    out = tmp_path / "out"
    out.mkdir()
    if by == "function":
        with pytest.raises(sqlite3.OperationalError) as error:
            databases.restore(replica, out / "copy.db", '{"continue": true}')
        text = str(error.value)
    else:
        with pytest.raises(AssertionError) as error:
            harness.run([harness.CLI, "restore", databases.url(replica), out / "copy.db"])
        text = str(error.value)
        assert "exit code 1" in text
    if file is not None:
        assert file.name in text, text
    for word in words:
        assert word in text, text
    assert list(out.iterdir()) == [], "nothing is left"


def test_damage_behind_the_target_does_not_matter(database, replica, tmp_path):
    truncate(groups(database, replica))
    assert databases.restore(replica, tmp_path / "copy.db", '{"txid": 2}') == 2


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_program_without_the_extension_writes_at_the_same_time(database, replica, journal):
    c = connect(database, replica)
    one(c, f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, who, x)")
    failures = []

    def write(who, connection):
        for n in range(150):
            try:
                connection.execute("INSERT INTO t(who, x) VALUES (?, randomblob(500))", (who,))
                connection.execute("UPDATE t SET x = randomblob(400) WHERE id = abs(random()) % ?", (n + 1,))
            except sqlite3.OperationalError as error:
                failures.append(error)

    def outside():
        other = plain(database)
        write("plain", other)
        other.close()

    thread = threading.Thread(target=outside)
    thread.start()
    write("ours", c)
    thread.join()
    assert not failures
    sync(c)
    assert status(c)["state"] == "Live"
    c.close()
    assert_equal(replica, database)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_program_without_the_extension_writes_while_we_only_look(database, replica, journal):
    c = connect(database, replica)
    one(c, f"PRAGMA journal_mode={journal}")
    c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    other = plain(database)
    for n in range(5):
        other.execute("INSERT INTO t(x) VALUES (?)", (n,))
        assert one(c, "SELECT max(x) FROM t") == n
        sync(c)
        copy = replica.with_name(f"look-{n}.db")
        databases.restore(replica, copy)
        check = plain(copy)
        assert one(check, "SELECT max(x) FROM t") == n
        check.close()
    other.close()
    c.close()
    assert_equal(replica, database)


def test_loading_again_and_in_many_threads_is_harmless(database, replica):
    """Each connection may load it; threads do so while a database is replicated."""
    c = connect(database, replica)
    c.execute("CREATE TABLE t(x)")
    failures = []

    def load_and_write(n):
        try:
            for _ in range(5):
                own = sqlite3.connect(":memory:")
                own.enable_load_extension(True)
                own.load_extension(str(harness.EXTENSION))
                own.load_extension(str(harness.EXTENSION))
                assert one(own, "SELECT replica_version()")
                own.close()
                mine = connect(database, replica)
                mine.execute("INSERT INTO t VALUES (?)", (n,))
                mine.close()
        except Exception as error:  # told below
            failures.append(error)

    threads = [threading.Thread(target=load_and_write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert one(c, "SELECT count(*) FROM t") == 40
    sync(c)
    c.close()
    assert_equal(replica, database)


def test_replica_folder_without_permission_fails_the_open(database, tmp_path):
    """Through a file in the way, which stops root too."""
    (tmp_path / "file").write_text("")
    with pytest.raises(sqlite3.OperationalError, match=r"replica: cannot create folder .*file: a file is in its place"):
        connect(database, tmp_path / "file" / "replica")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_log_folder_that_was_there_survives_a_refused_open(database, replica, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious").write_text("keep")
    groups(tmp_path / "other.db", replica, 1)
    c = plain(database)
    c.execute("CREATE TABLE t(x)")
    c.close()
    with pytest.raises(sqlite3.OperationalError, match="was never in"):
        connect(database, replica, replica_log=folder)
    assert (folder / "precious").read_text() == "keep"


def test_listing_shows_a_damaged_file(database, replica):
    flip_header(groups(database, replica))
    listed = json.loads(harness.run([harness.CLI, "list", "--json", databases.url(replica)]))
    assert [f["proof"] for f in listed] == ["yes", "yes", "damaged", "yes", "yes"]
