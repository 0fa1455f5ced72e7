"""A local file that is behind its replica: rolled forward, kept or refused, with real files put back as a loss of power leaves them."""

import itertools
import json
import shutil
import sqlite3
import struct
import time

import pytest

import databases
import harness
from databases import assert_equal, connect, files, one, plain, status, sync

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])
_names = itertools.count()

# Runs each line; "sync" prints the txid. Groups end where "sync" stands, and nowhere else.
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import databases
c = databases.connect(sys.argv[2], sys.argv[3], replica_interval="1h")
for line in sys.stdin:
    print(databases.sync(c) if line == "sync\\n" else len(c.execute(line).fetchall()), flush=True)
"""

# Opens, tells the row of the status, commits what it is told, closes.
OPENER = """
import json, sys
sys.path.insert(0, sys.argv[1])
import databases
try:
    c = databases.connect(sys.argv[2], sys.argv[3], **json.loads(sys.argv[4]))
    row = databases.status(c)
    for sql in sys.argv[5:]:
        c.execute(sql)
    if sys.argv[5:]:
        databases.sync(c)
    c.close()
except databases.sqlite3.OperationalError as error:
    row = {"refused": str(error)}
print(json.dumps(row))
"""


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


def beside(database, suffix):
    return database.with_name(database.name + suffix)


class Machine:
    """A database and its local log, as they can be saved and put back under the same inode."""

    def __init__(self, database, replica):
        self.database, self.replica, self.log = database, replica, beside(database, "-replica")

    def writer(self):
        return harness.Process(WRITER, harness.ROOT / "python-tests", self.database, self.replica)

    def files(self):
        """Bytes of the database, its WAL and its journal; None: there is none."""
        paths = [self.database, beside(self.database, "-wal"), beside(self.database, "-journal")]
        return [path.read_bytes() if path.exists() else None for path in paths]

    def put_back(self, content):
        for suffix, data in zip(["", "-wal", "-journal"], content):
            path = beside(self.database, suffix)
            path.write_bytes(data) if data is not None else path.unlink(missing_ok=True)
        beside(self.database, "-shm").unlink(missing_ok=True)

    def keep_log(self):
        kept = self.log.with_name(f"kept-{next(_names)}")
        shutil.copytree(self.log, kept)
        return kept

    def put_back_log(self, kept):
        shutil.rmtree(self.log)
        shutil.copytree(kept, self.log)

    def lose_power(self):
        """The marks of another boot in the log."""
        state = self.log / "state"
        content = bytearray(state.read_bytes())
        struct.pack_into("<QQ", content, 8, 1, 2)
        state.write_bytes(content)

    def open(self, *statements, power_lost=True, **parameters):
        """Opens and closes the database in a process of its own; the status it began with. `power_lost`: the machine was
        started after everything that is on its disk was written."""
        environment = harness.clean_environment(SQLITEREPLICATE_TEST_BOOTED_NS=time.time_ns() if power_lost else None)
        arguments = [harness.PYTHON, "-c", OPENER, harness.ROOT / "python-tests", self.database, self.replica]
        return json.loads(harness.run([*arguments, json.dumps(parameters), *statements], env=environment))

    def assert_rolled_forward(self, power_lost=True, **parameters):
        """The next open rolls forward to the head; nothing is sent, and nothing differs."""
        before = files(self.replica)
        row = self.open(power_lost=power_lost, **parameters)
        assert "rolled forward" in (row.get("last_event") or ""), json.dumps(row)
        assert row["state"] == "Live" and row["txid"] == row["acknowledged_txid"] == len(before), row
        assert files(self.replica) == before, "an open that rolls forward writes no history"
        assert_equal(self.replica, self.database)
        return row


@pytest.fixture
def machine(database, replica):
    return Machine(database, replica)


def run(writer, *lines):
    for line in lines:
        writer.tell(line)
        assert writer.line() is not None, line


def insert(rows=1, size=900):
    return f"INSERT INTO t(x) SELECT randomblob({size}) FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<{rows}) SELECT i FROM n)"


def begin(writer, journal, synchronous="normal"):
    """A database with a first group of 20 rows, in the database file."""
    run(writer, f"PRAGMA journal_mode={journal}", f"PRAGMA synchronous={synchronous}", "PRAGMA wal_autocheckpoint=0")
    run(writer, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)", insert(20), "sync")


# Three groups of several commits: the same pages again and again, growth, a shrink, and a page that only one commit writes.
GROUPS = [
    ["UPDATE t SET x = randomblob(900) WHERE id = 3", insert(3), "UPDATE t SET x = randomblob(900) WHERE id = 3"],
    [insert(40), "CREATE INDEX i ON t(x)", "DELETE FROM t WHERE id > 30", "UPDATE t SET x = 1 WHERE id = 17"],
    ["UPDATE t SET x = randomblob(900) WHERE id = 3", "DROP INDEX i", insert(2)],
]


def write_groups(writer, after=lambda: None):
    for group in GROUPS:
        for statement in group:
            run(writer, statement)
            after()
        run(writer, "sync")


def commit_ends(wal):
    """Lengths of the WAL at the ends of its commits, none first."""
    page_size = struct.unpack_from(">I", wal, 8)[0]
    ends, at = [32], 32
    while at + 24 + page_size <= len(wal) and wal[at + 8 : at + 16] == wal[16:24]:
        if struct.unpack_from(">I", wal, at + 4)[0]:
            ends.append(at + 24 + page_size)
        at += 24 + page_size
    return ends


@pytest.mark.parametrize("synchronous", ["off", "normal", "full"])
def test_every_prefix_of_the_wal_is_rolled_forward(machine, synchronous):
    with machine.writer() as writer:
        begin(writer, "wal", synchronous)
        run(writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        write_groups(writer)
        content = machine.files()
        writer.kill()
    log = machine.keep_log()
    ends = commit_ends(content[1])
    assert len(ends) == 11, "ten commits"
    for end in [0, *ends[:-1]]:
        machine.put_back([content[0], content[1][:end], None])
        machine.put_back_log(log)
        machine.lose_power()
        machine.assert_rolled_forward()


def test_checkpoint_that_reached_the_disk_without_its_wal_is_rolled_forward(machine):
    """synchronous=OFF: the file holds some pages of later commits, the WAL an older part."""
    with machine.writer() as writer:
        begin(writer, "wal", "off")
        run(writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        run(writer, *GROUPS[0], "sync", *GROUPS[1])
        half = machine.files()[1]
        run(writer, "PRAGMA wal_checkpoint(PASSIVE)", "sync", *GROUPS[2], "sync")
        content = machine.files()
        writer.kill()
    log = machine.keep_log()
    for wal in [None, half, half[: len(half) // 2], content[1][: commit_ends(content[1])[-2]]]:
        machine.put_back([content[0], wal, None])
        machine.put_back_log(log)
        machine.lose_power()
        machine.assert_rolled_forward()


@pytest.mark.parametrize("synchronous", ["off", "full"])
def test_every_earlier_state_of_a_rollback_mode_is_rolled_forward(machine, synchronous):
    states = []
    with machine.writer() as writer:
        begin(writer, "delete", synchronous)
        states.append(machine.files())
        write_groups(writer, after=lambda: states.append(machine.files()))
        writer.kill()
    log = machine.keep_log()
    for state in states[:-1]:
        machine.put_back(state)
        machine.put_back_log(log)
        machine.lose_power()
        machine.assert_rolled_forward()


def test_mixture_of_old_and_new_pages_is_rolled_forward(machine):
    """synchronous=OFF in a rollback mode: any of the pages may have reached the disk, in any order."""
    with machine.writer() as writer:
        begin(writer, "delete", "off")
        old = machine.files()[0]
        run(writer, *GROUPS[0], "sync", insert(5), "sync")
        new = machine.files()[0]
        writer.kill()
    log = machine.keep_log()
    for keep in [lambda n: n % 2, lambda n: n % 3 == 0, lambda n: n > 4]:
        pages = [(new if keep(n) else old)[n * 4096 : (n + 1) * 4096] for n in range(len(new) // 4096)]
        # Page 1 tells that it is behind.
        machine.put_back([b"".join([old[:4096], *pages[1:]]), None, None])
        machine.put_back_log(log)
        machine.lose_power()
        machine.assert_rolled_forward()


def test_hot_journal_is_played_back_first(machine):
    with machine.writer() as writer:
        begin(writer, "delete")
        run(writer, "PRAGMA cache_size=5", "BEGIN", insert(40), "UPDATE t SET x = randomblob(900)")
        in_transaction = machine.files()
        run(writer, "ROLLBACK", *GROUPS[0], "sync")
        writer.kill()
    assert len(in_transaction[2]) > 4096
    machine.put_back(in_transaction)
    machine.lose_power()
    machine.assert_rolled_forward()


@JOURNALS
def test_lost_groups_of_the_log_come_back_from_the_replica(machine, journal):
    """The log, too, may be behind: a second of it is not synced."""
    with machine.writer() as writer:
        begin(writer, journal)
        old, log = machine.files(), machine.keep_log()
        run(writer, *GROUPS[0], "sync", *GROUPS[1], "sync")
        writer.kill()
    machine.put_back(old)
    machine.put_back_log(log)
    machine.lose_power()
    row = machine.assert_rolled_forward()
    assert "from 0000000000000001 to 0000000000000003" in row["last_event"]
    # And it goes on from there.
    machine.open(insert(), power_lost=False)
    assert assert_equal(machine.replica, machine.database) == 4


def test_groups_that_only_the_log_has_come_back_too(machine):
    """The log is ahead of the replica, and both are ahead of the database."""
    with machine.writer() as writer:
        begin(writer, "wal")
        run(writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        old = machine.files()
        run(writer, *GROUPS[0], "sync", *GROUPS[1], "sync")
        writer.kill()
    # The newest group did not reach the replica.
    newest = files(machine.replica)[-1]
    content = newest.read_bytes()
    newest.unlink()
    shutil.copyfile(beside(machine.database, "-wal"), machine.database.with_name("full-wal"))
    state = machine.log / "state"
    marks = bytearray(state.read_bytes())
    struct.pack_into("<Q", marks, 24 * 8, 2)
    state.write_bytes(marks)
    assert (machine.log / "ltx" / newest.name).exists()
    for wal in [None, (machine.database.with_name("full-wal")).read_bytes()[:20_000]]:
        log = machine.keep_log()
        machine.put_back([old[0], wal, None])
        machine.lose_power()
        row = machine.open()
        assert "rolled forward" in row["last_event"] and row["txid"] == 3, row
        machine.open(insert(), power_lost=False)
        assert assert_equal(machine.replica, machine.database) == 4
        assert newest.read_bytes() == content
        newest.unlink()
        files(machine.replica)[-1].unlink()
        machine.put_back_log(log)


@JOURNALS
def test_outdated_node_is_rolled_forward_and_writes_only_what_differs(machine, journal, tmp_path):
    with machine.writer() as writer:
        begin(writer, journal)
        run(writer, insert(3000), "sync")
        writer.finish()
    other = Machine(tmp_path / "other.db", machine.replica)
    shutil.copy2(machine.database, other.database)
    shutil.copytree(machine.log, other.log)
    with other.writer() as writer:
        run(writer, "UPDATE t SET x = 'there' WHERE id = 9", "sync", "UPDATE t SET x = 'there' WHERE id = 2000", "sync")
        writer.finish()
    row = machine.assert_rolled_forward(power_lost=False)
    assert int(row["last_event"].split("(")[1].split(" ")[0]) < 10, row
    assert machine.database.read_bytes() == other.database.read_bytes()


def test_outdated_node_follows_a_change_of_the_page_size(machine, tmp_path):
    for journal, page_size in [("delete", 1024), ("delete", 8192)]:
        if not machine.database.exists():
            with machine.writer() as writer:
                begin(writer, journal)
                writer.finish()
        other = Machine(tmp_path / f"other-{page_size}.db", machine.replica)
        shutil.copy2(machine.database, other.database)
        shutil.copytree(machine.log, other.log)
        with other.writer() as writer:
            run(writer, "PRAGMA journal_mode=delete", f"PRAGMA page_size={page_size}", "VACUUM", "sync", insert(2), "sync")
            writer.finish()
        row = machine.open(power_lost=False)
        assert "rolled forward" in row["last_event"]
        assert machine.database.read_bytes() == other.database.read_bytes()
        assert_equal(machine.replica, machine.database)


def test_commits_that_only_the_database_has_are_kept_after_a_loss_of_power(machine):
    with machine.writer() as writer:
        begin(writer, "wal")
        run(writer, "UPDATE t SET x = 1 WHERE id = 3", "sync", "UPDATE t SET x = 2 WHERE id = 3")
        writer.kill()
    machine.lose_power()
    row = machine.open("UPDATE t SET x = 9 WHERE id = 4")
    assert "more than was recorded" in row["last_event"]
    c = plain(machine.database)
    assert one(c, "SELECT x FROM t WHERE id = 3") == 2
    c.close()
    assert_equal(machine.replica, machine.database)


def test_state_that_is_in_no_history_is_saved_before_it_is_overwritten(machine, tmp_path):
    with machine.writer() as writer:
        begin(writer, "wal")
        run(writer, "PRAGMA wal_checkpoint(TRUNCATE)")
        run(writer, "UPDATE t SET x = 'first' WHERE id = 3")
        inside = machine.files()
        run(writer, "UPDATE t SET x = 'second' WHERE id = 3", insert(9), "sync")
        writer.kill()
    machine.put_back(inside)
    machine.lose_power()
    row = machine.assert_rolled_forward()
    (saved,) = (machine.log / "saved").glob("*/*.ltx")
    assert str(saved) in row["last_event"]
    # A copy of the replica with that file restores it.
    branch = tmp_path / "branch"
    shutil.copytree(machine.replica, branch)
    shutil.copy(saved, branch / "ltx" / "0")
    copy = tmp_path / "copy.db"
    assert databases.restore(branch, copy) == 3
    c = plain(copy)
    assert one(c, "SELECT x FROM t WHERE id = 3") == "first" and one(c, "SELECT count(*) FROM t") == 20
    c.close()


def lost_a_group(machine, journal="delete"):
    """The database at its first group, the replica at its second; log and files as a kill leaves them."""
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    old = machine.files()
    with machine.writer() as writer:
        run(writer, "UPDATE t SET x = 'new' WHERE id = 3", "sync")
        writer.kill()
    return old


@JOURNALS
def test_old_copy_put_back_on_purpose_is_never_rolled_forward(machine, journal):
    old = lost_a_group(machine, journal)
    machine.put_back(old)
    # Under the same boot: the marks of the log are not those of this file.
    row = machine.open(insert(), power_lost=False)
    assert "changed while the extension was not there" in row["last_event"]
    c = plain(machine.database)
    assert one(c, "SELECT count(*) FROM t WHERE x = 'new'") == 0
    c.close()
    assert assert_equal(machine.replica, machine.database) > 2


def test_old_copy_with_its_wal_put_back_on_purpose_is_never_rolled_forward(machine):
    with machine.writer() as writer:
        begin(writer, "wal")
        old = machine.files()
        run(writer, "UPDATE t SET x = 'new' WHERE id = 3", "sync")
        writer.kill()
    machine.put_back(old)
    row = machine.open(insert(), power_lost=False)
    assert "changed while the extension was not there" in row["last_event"]
    assert assert_equal(machine.replica, machine.database) > 2


def test_file_that_was_changed_after_the_machine_came_back_is_never_rolled_forward(machine):
    old = lost_a_group(machine)
    machine.lose_power()
    machine.put_back(old)
    row = machine.open(insert(), power_lost=False)
    assert "changed while the extension was not there" in row["last_event"]
    assert assert_equal(machine.replica, machine.database) > 2


def test_change_that_is_not_in_the_replica_is_never_rolled_forward(machine):
    old = lost_a_group(machine)
    machine.put_back(old)
    c = plain(machine.database)
    c.execute("UPDATE t SET x = 'by hand' WHERE id = 19")
    c.close()
    machine.lose_power()
    row = machine.open(insert())
    assert "stays in its history" in row["last_event"]
    c = plain(machine.database)
    assert one(c, "SELECT x FROM t WHERE id = 19") == "by hand"
    c.close()
    assert_equal(machine.replica, machine.database)


def test_doubt_is_refused_with_both_ways_out_where_commits_were_promised(machine):
    old = lost_a_group(machine)
    machine.put_back(old)
    c = plain(machine.database)
    c.execute("UPDATE t SET x = 'by hand' WHERE id = 19")
    c.close()
    machine.lose_power()
    content, log, names = machine.files(), machine.keep_log(), files(machine.replica)
    row = machine.open(replica_durability="commit")
    assert "replica_on_behind=rollforward" in row["refused"] and "replica_on_behind=keep" in row["refused"]
    assert (machine.files(), files(machine.replica)) == (content, names), "nothing is changed"
    # Each of the ways out leads out.
    row = machine.open(replica_durability="commit", replica_on_behind="rollforward")
    assert "is saved in" in row["last_event"] and files(machine.replica) == names
    assert_equal(machine.replica, machine.database)
    machine.put_back(content)
    machine.put_back_log(log)
    machine.lose_power()
    machine.open("PRAGMA user_version=7", replica_durability="commit", replica_on_behind="keep")
    c = plain(machine.database)
    assert one(c, "SELECT x FROM t WHERE id = 19") == "by hand"
    c.close()
    assert_equal(machine.replica, machine.database)


@pytest.mark.parametrize("why", ["behind", "changed", "no log"])
@pytest.mark.parametrize("on_behind", ["rollforward", "keep", "refuse"])
def test_what_somebody_said_decides(machine, why, on_behind):
    old = lost_a_group(machine)
    machine.put_back(old)
    if why == "behind":
        machine.lose_power()
    if why == "no log":
        shutil.rmtree(machine.log)
    content, names = machine.files(), files(machine.replica)
    row = machine.open(power_lost=why == "behind", replica_on_behind=on_behind)
    if on_behind == "refuse":
        for word in ["replica_on_behind", "rollforward", "keep"]:
            assert word in row["refused"]
        assert (machine.files(), files(machine.replica)) == (content, names), "nothing is changed"
        return
    if on_behind == "rollforward":
        assert "rolled forward" in row["last_event"] and row["state"] == "Live"
        assert files(machine.replica) == names
        assert_equal(machine.replica, machine.database)
        return
    assert "rolled forward" not in row["last_event"]
    machine.open("PRAGMA user_version=7", power_lost=False)
    c = plain(machine.database)
    assert one(c, "SELECT count(*) FROM t WHERE x = 'new'") == 0
    c.close()
    assert len(files(machine.replica)) > 2
    assert_equal(machine.replica, machine.database)


def test_another_database_is_overwritten_only_when_asked_and_saved(machine, tmp_path):
    with machine.writer() as writer:
        begin(writer, "wal")
        writer.finish()
    other = Machine(tmp_path / "other.db", machine.replica)
    c = plain(other.database)
    c.execute("PRAGMA page_size=1024")
    c.execute("CREATE TABLE other(x)")
    c.close()
    assert "in a state that" in other.open()["refused"]
    row = other.open(replica_on_behind="rollforward")
    assert "is saved in" in row["last_event"]
    assert_equal(machine.replica, other.database)
    assert len(list((other.log / "saved").glob("*/*.ltx"))) == 1


def test_database_that_another_program_has_open_is_busy_and_untouched(machine):
    old = lost_a_group(machine)
    machine.put_back(old)
    machine.lose_power()
    c = plain(machine.database)
    c.execute("BEGIN")
    c.execute("SELECT count(*) FROM t").fetchall()
    row = machine.open(replica_open_timeout="100ms")
    assert "another program has it open" in row["refused"]
    assert machine.files() == old
    c.close()
    machine.assert_rolled_forward()


@pytest.mark.parametrize("call", ["pwrite64", "fsync,fdatasync", "unlink,unlinkat"])
def test_killed_at_any_step_of_a_roll_forward_it_is_rolled_forward_by_the_next_open(machine, call):
    old = lost_a_group(machine)
    log = machine.keep_log()
    paths = [argument for suffix in ["", "-journal"] for argument in ("-P", beside(machine.database, suffix))]
    for step in range(1, 100):
        machine.put_back(old)
        machine.put_back_log(log)
        machine.lose_power()
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", *paths, "-e", f"inject={call}:signal=KILL:when={step}"]
        opener = [harness.PYTHON, "-c", OPENER, harness.ROOT / "python-tests", machine.database, machine.replica, "{}"]
        environment = harness.clean_environment(SQLITEREPLICATE_TEST_BOOTED_NS=time.time_ns())
        with harness.Process([*strace, *opener], env=environment) as process:
            line = process.line()
        if line is not None:
            assert "rolled forward" in line and step > 1
            return
        # What plain SQLite finds is the old state or the new one.
        judge = Machine(machine.database.with_name(f"judge-{next(_names)}.db"), machine.replica)
        judge.put_back(machine.files())
        c = plain(judge.database)
        assert one(c, "SELECT count(*) FROM t WHERE x = 'new'") in (0, 1) and one(c, "PRAGMA integrity_check") == "ok"
        c.close()
        row = machine.open()
        assert row["state"] in ("Live", "Cold"), row
        assert_equal(machine.replica, machine.database)
    raise AssertionError("it never came to an end")


def test_commits_that_sqlite_loses_with_a_killed_process_come_back(machine):
    """SQLite before 3.53.4 may commit frames without salts and checksums, at which a recovery stops: they are made here."""
    with machine.writer() as writer:
        begin(writer, "wal")
        run(writer, "PRAGMA wal_checkpoint(TRUNCATE)", *GROUPS[0], "sync", *GROUPS[1], "sync")
        writer.kill()
    content = machine.files()
    for end in commit_ends(content[1])[1:-1]:
        wal = bytearray(content[1])
        wal[end + 8 : end + 24] = bytes(16)
        machine.put_back([content[0], wal, None])
        log = machine.keep_log()
        machine.assert_rolled_forward(power_lost=False)
        machine.put_back_log(log)


def commits_elsewhere(machine, tmp_path, *statements):
    """Another node, from a copy of database and log, writes groups of its own."""
    other = Machine(tmp_path / f"other-{next(_names)}.db", machine.replica)
    shutil.copy2(machine.database, other.database)
    shutil.copytree(machine.log, other.log)
    with other.writer() as writer:
        run(writer, *statements)
        writer.finish()
    return other


@JOURNALS
def test_open_database_is_brought_to_the_head_on_demand(machine, journal, tmp_path):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    c = connect(machine.database, machine.replica)
    reader = connect(machine.database, machine.replica)
    assert one(reader, "SELECT count(*) FROM t") == 20
    assert one(c, "SELECT replica_rollforward()") == 1, "nothing is behind"
    idle = plain(machine.database)
    assert one(idle, "SELECT count(*) FROM t") == 20
    commits_elsewhere(machine, tmp_path, *GROUPS[0], "sync", *GROUPS[1], "sync", "UPDATE t SET x = 'there' WHERE id = 5", "sync")
    names = files(machine.replica)
    assert one(c, "SELECT replica_rollforward('main')") == 4
    assert "rolled forward from 0000000000000001 to 0000000000000004" in status(c)["last_event"]
    for connection in (c, reader, idle):
        assert one(connection, "SELECT x FROM t WHERE id = 5") == "there" and one(connection, "PRAGMA integrity_check") == "ok"
    assert files(machine.replica)[: len(names)] == names
    # And it goes on from there.
    reader.execute("INSERT INTO t(x) VALUES ('here')")
    assert sync(reader) > 4 and status(reader)["state"] == "Live"
    assert one(c, "SELECT replica_rollforward()") == sync(c)
    for connection in (idle, reader, c):
        connection.close()
    assert_equal(machine.replica, machine.database)
    assert not (machine.log / "rolling").exists() and not list(machine.log.glob("head*"))


@JOURNALS
def test_open_database_with_commits_of_its_own_is_not_overwritten(machine, journal, tmp_path):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    c = connect(machine.database, machine.replica, replica_interval="1h", replica_flush_timeout="0")
    assert one(c, "SELECT count(*) FROM t") == 20
    commits_elsewhere(machine, tmp_path, *GROUPS[0], "sync")
    c.execute("INSERT INTO t(x) VALUES ('mine')")
    with pytest.raises(sqlite3.OperationalError, match="has commits that are not in .*cannot both be kept"):
        c.execute("SELECT replica_rollforward()").fetchall()
    assert one(c, "SELECT count(*) FROM t WHERE x = 'mine'") == 1
    c.close()


@JOURNALS
def test_open_database_that_another_connection_writes_is_busy(machine, journal, tmp_path):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    c = connect(machine.database, machine.replica, replica_open_timeout="50ms")
    assert one(c, "SELECT count(*) FROM t") == 20
    commits_elsewhere(machine, tmp_path, *GROUPS[0], "sync")
    other = plain(machine.database)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        c.execute("SELECT replica_rollforward()").fetchall()
    other.execute("ROLLBACK")
    assert one(c, "SELECT replica_rollforward()") == 2
    other.close()
    c.close()
    assert_equal(machine.replica, machine.database)


ROLLER = """
import sys
sys.path.insert(0, sys.argv[1])
import databases
c = databases.connect(sys.argv[2], sys.argv[3], replica_interval="1h", replica_flush_timeout="0")
c.execute("SELECT count(*) FROM t").fetchall()
print("open", flush=True)
sys.stdin.readline()
print(databases.one(c, "SELECT replica_rollforward()"), flush=True)
sys.stdin.readline()
"""


@JOURNALS
@pytest.mark.parametrize("call", ["pwrite64", "fsync,fdatasync", "unlink,unlinkat"])
def test_killed_while_an_open_database_is_rolled_forward_nothing_is_lost(machine, journal, call, tmp_path):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    old, log = machine.files(), machine.keep_log()
    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(machine.replica, before)
    commits_elsewhere(machine, tmp_path, "UPDATE t SET x = 'there' WHERE id = 5", "sync", insert(9), "sync")
    machine.replica.rename(after)
    watched = [beside(machine.database, suffix) for suffix in ["", "-wal", "-journal"]] + [machine.log / "rolling"]
    paths = [argument for path in watched for argument in ("-P", path)]
    for step in range(1, 200, 3):
        machine.put_back(old)
        machine.put_back_log(log)
        shutil.rmtree(machine.replica, ignore_errors=True)
        shutil.copytree(before, machine.replica)
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", *paths, "-e", f"inject={call}:signal=KILL:when={step}"]
        roller = [harness.PYTHON, "-u", "-c", ROLLER, harness.ROOT / "python-tests", machine.database, machine.replica]
        with harness.Process([*strace, *roller]) as process:
            # Opened while it is the newest; then the other node's groups are there.
            opened = process.line()
            if opened == "open":
                for file in files(after)[1:]:
                    shutil.copy2(file, machine.replica / "ltx" / "0")
                process.tell("go")
                done = process.line()
            process.kill()
        assert opened == "open" or step == 1
        row = machine.open(power_lost=False)
        assert row.get("state") in ("Live", "Cold"), (step, json.dumps(row))
        machine.open("PRAGMA user_version=7", power_lost=False)
        c = plain(machine.database)
        assert one(c, "SELECT count(*) FROM t WHERE x = 'there'") == (opened == "open") and one(c, "PRAGMA integrity_check") == "ok"
        c.close()
        assert_equal(machine.replica, machine.database)
        if opened == "open" and done is not None:
            return
    raise AssertionError("it never came to an end")


@JOURNALS
def test_process_that_lives_on_when_another_dies_while_rolling_forward_keeps_the_history_whole(machine, journal, tmp_path):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    before, after = tmp_path / "before", tmp_path / "after"
    old, log = machine.files(), machine.keep_log()
    shutil.copytree(machine.replica, before)
    commits_elsewhere(machine, tmp_path, "UPDATE t SET x = 'there' WHERE id = 5", "sync", insert(9), "sync")
    machine.replica.rename(after)
    paths = [argument for suffix in ["", "-wal", "-journal"] for argument in ("-P", beside(machine.database, suffix))]
    states = []
    for step in [1, 2, 3, 5, 9]:
        machine.put_back(old)
        machine.put_back_log(log)
        shutil.rmtree(machine.replica, ignore_errors=True)
        shutil.copytree(before, machine.replica)
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", *paths, "-e", f"inject=pwrite64:signal=KILL:when={step}"]
        roller = [harness.PYTHON, "-u", "-c", ROLLER, harness.ROOT / "python-tests", machine.database, machine.replica]
        c = connect(machine.database, machine.replica)
        assert one(c, "SELECT count(*) FROM t") == 20
        with harness.Process([*strace, *roller]) as process:
            assert process.line() == "open"
            for file in files(after)[1:]:
                shutil.copy2(file, machine.replica / "ltx" / "0")
            process.tell("go")
            lines = list(iter(process.line, None))
            assert not lines, lines
        c.execute("INSERT INTO t(x) VALUES ('mine')")
        try:
            sync(c)
        except sqlite3.OperationalError:
            pass
        states.append(status(c)["state"])
        c.close()
        if states[-1] == "Fenced":
            assert files(machine.replica)[-1].name == files(after)[-1].name, "nothing was sent"
        else:
            assert_equal(machine.replica, machine.database)
    assert "Live" in states, states
