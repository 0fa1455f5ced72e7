"""A local file that is behind its replica is rolled forward by the open; real files are put back as a loss of power leaves them."""

import shutil
import struct
import time

import pytest

import databases
import harness
from databases import assert_equal, files, one, plain
from machines import GROUPS, Machine, begin, beside, commit_ends, insert, lost_a_group, run, write_groups

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete"])


@pytest.fixture
def machine(tmp_path, replica):
    return Machine(tmp_path / "app.db", replica)


PLACES = [("off", "folder"), ("normal", "folder"), ("full", "folder"), ("normal", "weed")]


@pytest.mark.parametrize(("synchronous", "replica"), PLACES, indirect=["replica"])
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
    machine.assert_each_rolled_forward(log, ([content[0], content[1][:end], None] for end in [0, *ends[:-1]]))


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
    wals = [None, half, half[: len(half) // 2], content[1][: commit_ends(content[1])[-2]]]
    machine.assert_each_rolled_forward(log, ([content[0], wal, None] for wal in wals))


@pytest.mark.parametrize("synchronous", ["off", "full"])
def test_every_earlier_state_of_a_rollback_mode_is_rolled_forward(machine, synchronous):
    states = []
    with machine.writer() as writer:
        begin(writer, "delete", synchronous)
        states.append(machine.files())
        write_groups(writer, after=lambda: states.append(machine.files()))
        writer.kill()
    log = machine.keep_log()
    machine.assert_each_rolled_forward(log, states[:-1])


def test_mixture_of_old_and_new_pages_is_rolled_forward(machine):
    """synchronous=OFF in a rollback mode: any of the pages may have reached the disk, in any order."""
    with machine.writer() as writer:
        begin(writer, "delete", "off")
        old = machine.files()[0]
        run(writer, *GROUPS[0], "sync", insert(5), "sync")
        new = machine.files()[0]
        writer.kill()
    log = machine.keep_log()

    def mixed(is_new):
        pages = [(new if is_new(n) else old)[n * 4096 : (n + 1) * 4096] for n in range(len(new) // 4096)]
        # Page 1 tells that it is behind.
        return [b"".join([old[:4096], *pages[1:]]), None, None]

    machine.assert_each_rolled_forward(log, map(mixed, [lambda n: n % 2, lambda n: n % 3 == 0, lambda n: n > 4]))


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
    watched = [beside(machine.database, suffix) for suffix in ["", "-journal"]]
    for step in range(1, 100):
        machine.put_back(old)
        machine.put_back_log(log)
        machine.lose_power()
        strace = harness.killed_at(call, step, watched)
        environment = harness.clean_environment(SQLITEREPLICATE_TEST_BOOTED_NS=time.time_ns())
        with harness.Process([*strace, *machine.opener()], env=environment) as process:
            line = process.line()
        if line is not None:
            assert "rolled forward" in line and step > 1
            return
        # What plain SQLite finds is the old state or the new one.
        judge = machine.another("judge")
        judge.put_back(machine.files())
        c = plain(judge.database)
        assert one(c, "SELECT count(*) FROM t WHERE x = 'new'") in (0, 1) and one(c, "PRAGMA integrity_check") == "ok"
        c.close()
        row = machine.open()
        assert row["state"] in ("Live", "Cold"), row
        assert_equal(machine.replica, machine.database)
    raise AssertionError("it never came to an end")


@JOURNALS
def test_page_1_that_was_put_there_is_nobody_elses_commit(machine, journal):
    old = lost_a_group(machine, journal)
    machine.put_back(old)
    machine.lose_power()
    row = machine.open("SELECT count(*) FROM t")
    assert row["state"] == "Live" and "rolled forward" in row["event_at_end"], row
    another = machine.another("restored")
    row = another.open("SELECT count(*) FROM t", power_lost=False, replica_if_missing="restore")
    assert row["state"] == "Live" and "restored from" in row["event_at_end"], row


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


def test_journal_that_comes_back_beside_a_clean_mark_takes_the_last_commit_along(tmp_path, replica):
    """Power goes after a clean close, and with it the removal of the last journal: SQLite rolls back what the log counts on."""
    machine = Machine(tmp_path / "app.db", replica)
    with machine.writer() as writer:
        begin(writer, "delete", "full")
        writer.finish()
    aside = tmp_path / "aside.db"
    shutil.copyfile(machine.database, aside)
    with machine.writer() as writer:
        run(writer, "UPDATE t SET x = 'last' WHERE id = 3", "sync")
        writer.finish()
    # The journal of that commit: what it changed, page 1 among it, as it was before.
    c = databases.plain(aside)
    c.execute("PRAGMA journal_mode=PERSIST")
    c.execute("BEGIN")
    c.execute("PRAGMA user_version=1")
    c.execute("PRAGMA cache_size=1")
    c.execute("UPDATE t SET x = randomblob(900)")
    journal = beside(aside, "-journal").read_bytes()
    assert journal[:8] == bytes.fromhex("d9d505f920a163d7") and journal[8:12] != bytes(4), "it is hot"
    beside(machine.database, "-journal").write_bytes(journal)
    c.execute("ROLLBACK")
    c.close()
    machine.lose_power()
    row = machine.open("INSERT INTO t(x) VALUES ('again')")
    assert "refused" not in row, row
    assert_equal(replica, machine.database)
    held = {x for _, x in databases.rows(machine.database)}
    assert "again" in held and "last" in held, "what the replica has is in the database again"
