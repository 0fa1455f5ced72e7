"""The lease goes from one process to the next: by name, at a close, and by many who ask at once."""

import json
import os
import sqlite3
import threading
import time

import databases
import pytest
from nodes import rows

STORES = pytest.mark.parametrize("replica", ["folder", "moto", "weed"], indirect=True)
LONG = bool(os.environ.get("LONG"))
HANDOVERS = 20 if LONG else 2
RACERS = 32
# Of 32 processes that ask at once. SeaweedFS lets puts of one name that come together wait for each other in steps of a second.
# In parts, as a test server looks through all that a bucket holds at every request.
PARTS = 4 if LONG else 1
ROUNDS = {"folder": 1000, "moto": 1000, "weed": 60} if LONG else {"folder": 20, "moto": 10, "weed": 1}

# argv: extension, URI, name. At each line "take" it waits for the lease and writes without pause, a number a row; at
# "hand over" another connection hands it over while that goes on. Prints what happened and when; times are of one clock.
WRITER = """
import json, sqlite3, sys, threading, time
extension, uri, name = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
def connect():
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10, check_same_thread=False)
other, c = connect(), connect()
count = 0

def write(done, result):
    global count
    while not done.is_set():
        try:
            c.execute("INSERT INTO t VALUES (?)", (f"{name} {count}",))
        except sqlite3.OperationalError as error:
            result["refused"] = error.sqlite_errorcode
            return
        result.setdefault("first", time.monotonic())
        result["last"] = time.monotonic()
        count += 1

print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "take":
        epoch = other.execute("SELECT replica_lease_acquire(NULL, 120)").fetchone()[0]
        done, result = threading.Event(), {"epoch": epoch}
        writer = threading.Thread(target=write, args=(done, result))
        writer.start()
        while "first" not in result and writer.is_alive():
            time.sleep(0.001)
        print(json.dumps(result), flush=True)
    elif line.strip() == "hand over":
        to = other.execute("SELECT replica_lease_handover()").fetchone()[0]
        writer.join()
        print(json.dumps({**result, "to": to, "count": count}), flush=True)
    else:
        done.set()
        writer.join()
        other.execute("SELECT replica_sync(60)")
        print(json.dumps({**result, "count": count}), flush=True)
c.close()
other.close()
"""


@STORES
def test_handover_under_constant_writes_loses_no_commit_and_has_one_writer_at_a_time(nodes, process):
    nodes.first().finish()
    # Whoever takes over reads what came since it last held the lease: with a group a commit that would be thousands of files.
    uri = lambda name: nodes.uri(name, replica_interval=None)
    turns = [process(WRITER, nodes.extension, uri(name), name) for name in "bc"]
    for writer in turns:
        writer.until("ready")
    ask = lambda writer, line: (writer.tell(line), json.loads(writer.line(timeout=150)))[1]
    epoch = ask(turns[0], "take")["epoch"]
    gaps, commits = [], {}
    for turn in range(HANDOVERS):
        before, after = turns[turn % 2], turns[(turn + 1) % 2]
        after.tell("take")
        time.sleep(0.3)  # some commits
        handed = ask(before, "hand over")
        taken = json.loads(after.line(timeout=150))
        assert handed["refused"] == 51208, "no write went on"
        assert handed["to"] == taken["epoch"] == epoch + 1
        epoch = taken["epoch"]
        assert handed["last"] < taken["first"], "two wrote at once"
        gaps.append(taken["first"] - handed["last"])
        commits["bc"[turn % 2]] = handed["count"]
    last = HANDOVERS % 2
    commits["bc"[last]] = ask(turns[last], "end")["count"]
    for writer in turns:
        writer.finish()
    print("handovers", HANDOVERS, "commits", commits, "gaps in s:", " ".join(f"{gap:.2f}" for gap in sorted(gaps)))
    found = [value for (value,) in nodes.restored()]
    for name, count in commits.items():
        assert [value for value in found if value.startswith(f"{name} ")] == [f"{name} {i}" for i in range(count)]


def test_handover_that_nobody_waits_for_is_taken_back(nodes):
    a = nodes.first()
    refused = a.ask("SELECT replica_lease_handover(0.2)")
    assert "nobody took the lease over" in refused and "holds it again, by epoch 2" in refused
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    assert a.ask("SELECT held_by_me, epoch FROM replica_lease") == [[1, 2]]
    a.finish()
    assert nodes.restored() == [("a",), ("a2",)]


def test_who_does_not_hold_the_lease_can_neither_renew_it_nor_hand_it_over(nodes):
    a = nodes.first()
    b = nodes.shell("b")
    for function in ["renew", "handover"]:
        assert "does not hold the lease" in b.ask(f"SELECT replica_lease_{function}()")
    assert b.ask("SELECT replica_lease_release()") == [[0]]
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    for shell in (a, b):
        shell.finish()


@STORES
def test_renewal_by_name_moves_the_end(nodes):
    a = nodes.first(replica_lease_ttl="60s")
    ((before,),) = a.ask("SELECT expires_at FROM replica_lease")
    ((end,),) = a.ask("SELECT replica_lease_renew()")
    assert end > before
    assert a.ask("SELECT expires_at, renewals, held_by_me FROM replica_lease") == [[end, 1, 1]]
    a.finish()


def test_renewal_that_the_store_does_not_take_is_said(nodes, replica):
    a = nodes.first(replica_lease_ttl="60s")
    replica.rename(replica.with_name("away"))
    said = a.ask("SELECT replica_lease_renew()")
    assert "was not renewed, and is held until 20" in said
    replica.with_name("away").rename(replica)
    assert isinstance(a.ask("SELECT replica_lease_renew()"), list)
    a.finish()


def in_transaction(nodes, journal, count, **parameters):
    """Connections of this process, which holds the lease; the first one is in a transaction that writes."""
    databases.load()
    uri = nodes.uri("a", **parameters)
    connect = lambda: sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5, check_same_thread=False)
    first, *others = [connect() for _ in range(count)]
    first.execute("SELECT replica_lease_acquire()").fetchall()
    first.execute(f"PRAGMA journal_mode={journal}")
    first.execute("CREATE TABLE t(x)")
    first.execute("BEGIN IMMEDIATE")
    return first, *others


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_lease_is_not_handed_back_from_within_a_transaction(nodes, journal):
    c, other = in_transaction(nodes, journal, 2, replica_sync_timeout="1s")
    c.execute("INSERT INTO t VALUES ('begun before')")
    for function in ["release", "handover"]:
        with pytest.raises(sqlite3.OperationalError, match="this connection is in a transaction: commit it"):
            c.execute(f"SELECT replica_lease_{function}()").fetchall()
        with pytest.raises(sqlite3.OperationalError, match="another connection of this process is in a transaction"):
            other.execute(f"SELECT replica_lease_{function}()").fetchall()
    c.execute("INSERT INTO t VALUES ('goes on')")
    c.execute("COMMIT")
    # Busy for one who comes second, but a writer all the same.
    c.execute("BEGIN IMMEDIATE")
    other.execute("PRAGMA busy_timeout=0")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("INSERT INTO t VALUES ('refused')")
    c.execute("ROLLBACK")
    assert databases.one(c, "SELECT replica_lease_release()") == 1
    with pytest.raises(sqlite3.OperationalError) as refused:
        c.execute("INSERT INTO t VALUES ('late')")
    assert refused.value.sqlite_errorcode == 51208
    for connection in (c, other):
        connection.close()
    assert nodes.restored() == [("begun before",), ("goes on",)]


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_release_waits_for_a_transaction_that_began_before_it(nodes, journal):
    c, other, third = in_transaction(nodes, journal, 3)
    released = []
    release = threading.Thread(target=lambda: released.append(databases.one(other, "SELECT replica_lease_release()")))
    release.start()

    # The gate is closed before the wait begins.
    def is_closed():
        return not databases.one(third, "SELECT count(*) FROM replica_status WHERE lease_epoch IS NOT NULL")

    deadline = time.monotonic() + 30
    while not is_closed():
        assert time.monotonic() < deadline
    c.execute("INSERT INTO t VALUES ('begun before')")
    c.execute("COMMIT")
    release.join()
    assert released == [1]
    for connection in (c, other, third):
        connection.close()
    assert nodes.restored() == [("begun before",)]


@STORES
@pytest.mark.parametrize("part", range(PARTS))
def test_of_many_who_ask_at_once_one_gets_the_lease(nodes, request, part):
    rounds = ROUNDS[request.node.callspec.params["replica"]] // PARTS
    nodes.first().finish()
    racers = [nodes.shell(f"racer-{number}", replica_lease_ttl="60s") for number in range(RACERS)]
    for round in range(rounds):
        for racer in racers:
            racer.process.tell("SELECT replica_lease_acquire()")
        answers = [json.loads(racer.process.line(timeout=300)) for racer in racers]
        winners = [number for number, answer in enumerate(answers) if isinstance(answer, list)]
        assert len(winners) == 1, (round, answers)
        # One may find the epoch taken before it hears whether it was its own put: the next one counts on.
        winner, ((epoch,),) = racers[winners[0]], answers[winners[0]]
        assert epoch > round + 1
        assert winner.ask(f"INSERT INTO t VALUES ({round})") == []
        assert winner.ask("SELECT replica_lease_release()") == [[1]]
    assert rows(winner)[1:] == list(range(rounds)), "each saw what all before it wrote"
    for racer in racers:
        racer.finish()
    assert [value for (value,) in nodes.restored()][1:] == list(range(rounds))
    print(f"part {part}: {rounds} rounds, one holder each")
    if hasattr(nodes.replica, "empty"):
        nodes.replica.empty()
