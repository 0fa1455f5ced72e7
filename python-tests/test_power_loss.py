"""A loss of power: what it leaves of marks, and, at a small setting, what `power_loss.py` finds (docs/power-loss.md)."""

import struct

import pytest

import databases
import power_loss
from databases import assert_equal
from machines import GROUPS, Machine, begin, insert, run

CLEAN, ACKNOWLEDGED = 16, 24  # words of the state page


@pytest.fixture
def machine(tmp_path, replica):
    return Machine(tmp_path / "app.db", replica)


def test_groups_whose_acknowledgement_was_lost_are_not_taken_for_those_of_another_writer(machine):
    with machine.writer() as writer:
        begin(writer, "delete")
        for statement in GROUPS[0]:
            run(writer, statement, "sync")
        writer.kill()
    groups = sorted((machine.log / "ltx").glob("*.ltx"))
    assert len(groups) >= 2
    groups[-1].unlink()
    state = machine.log / "state"
    content = bytearray(state.read_bytes())
    struct.pack_into("<Q", content, 8 * ACKNOWLEDGED, 0)
    state.write_bytes(content)
    machine.lose_power()
    count = len(databases.files(machine.replica))
    row = machine.open(insert())
    assert row["state"] != "Fenced" and row["acknowledged_txid"] == count, row
    assert_equal(machine.replica, machine.database)


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist"])
def test_a_file_with_the_times_of_the_last_close_and_another_page_1_was_not_closed_cleanly(machine, journal):
    with machine.writer() as writer:
        begin(writer, journal)
        writer.finish()
    with databases.plain(machine.database) as connection:
        connection.execute("UPDATE t SET x = 'later' WHERE id = 3")
    connection.close()
    # The change is on disk, its time is not: the mark has the time of the file as it is now.
    state, stat = machine.log / "state", machine.database.stat()
    content = bytearray(state.read_bytes())
    words = list(struct.unpack_from("<7Q", content, 8 * CLEAN))
    words[2:5] = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
    struct.pack_into("<7Q", content, 8 * CLEAN, *words[:6], power_loss.mix(words[:6]))
    state.write_bytes(content)
    machine.lose_power()
    row = machine.open("SELECT 1", power_lost=True)
    assert row["state"] in ("Live", "Cold"), row
    assert_equal(machine.replica, machine.database)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_log_whose_state_page_is_gone_is_looked_through_for_torn_groups(machine, journal):
    with machine.writer() as writer:
        begin(writer, journal)
        for statement in GROUPS[0]:
            run(writer, statement, "sync")
        writer.kill()
    groups = sorted((machine.log / "ltx").glob("*.ltx"))
    groups[-1].write_bytes(b"")
    state = machine.log / "state"
    state.write_bytes(bytes(state.stat().st_size))
    row = machine.open(insert())
    assert row["state"] in ("Live", "Cold") and row["last_error"] is None, row
    assert_equal(machine.replica, machine.database)


@pytest.mark.parametrize("skip", power_loss.SKIPS)
def test_a_sync_that_is_left_out_is_found(skip, capsys):
    arguments = ["--skip", skip, "--only", power_loss.SKIPS[skip][1], "--every", "61", "--states", "1", "--first"]
    assert power_loss.main(arguments) == 1, capsys.readouterr().out


def test_what_was_committed_outlasts_a_loss_of_power_at_any_call():
    assert power_loss.main(["--small"]) == 0
