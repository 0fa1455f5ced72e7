"""A replica with levels, snapshots and retention under two programs: the real `litestream restore` agrees with ours on every
state of one that we keep, and ours with it on every state of one that the real `litestream replicate` keeps."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import time

import pytest

import databases
import harness
import s3_servers
from databases import one, plain
from test_points_in_time import points, text
from test_upkeep import FAST, is_pruned, ranges

LONG = bool(os.environ.get("LONG"))
# Journal mode and place of the replicas that we write.
OURS = [("wal", "folder"), ("delete", "moto"), *([("delete", "folder"), ("wal", "moto")] if LONG else [])]
THEIRS = ["folder", "moto"]
# Groups end where the writer asks for it.
SETTINGS = {**FAST, "replica_interval": "1h", **({"replica_levels": "1s,3s,9s", "replica_retention": "20s"} if LONG else {})}
# Every kind of file of litestream's within seconds; levels of 5 s in the long setting.
THEIR_LEVELS = {
    "levels": [{"interval": "5s"}, {"interval": "15s"}] if LONG else [{"interval": "1s"}, {"interval": "3s"}],
    "snapshot": {"interval": "15s" if LONG else "3s", "retention": "1h"},
    "l0-retention": "10s" if LONG else "3s",
    "l0-retention-check-interval": "1s",
    # Nobody reads what it prints.
    "logging": {"level": "error"},
}
SECONDS_MIN = 90 if LONG else 0

# Transactions until its input ends, some to a group; prints each txid, and what the table holds then.
WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
import json, random, selectors, databases
c = databases.connect(sys.argv[2], sys.argv[3], **json.loads(sys.argv[4]))
c.execute("PRAGMA auto_vacuum = incremental").fetchall()
c.execute(f"PRAGMA journal_mode={sys.argv[5]}")
c.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
dice, told = random.Random(1), selectors.DefaultSelector()
told.register(sys.stdin, selectors.EVENT_READ)
while not told.select(0.06):
    for _ in range(dice.randrange(1, 4)):
        c.execute("INSERT INTO t(x) VALUES (randomblob(?))", (dice.randrange(5000),))
    c.execute("UPDATE t SET x = randomblob(100) WHERE id % 7 = ?", (dice.randrange(7),))
    if dice.random() < 0.1:
        c.execute("DELETE FROM t WHERE id % 2 = 0")
        c.execute("PRAGMA incremental_vacuum").fetchall()
    print(databases.sync(c), *c.execute("SELECT count(*), total(length(x)) FROM t").fetchone(), flush=True)
c.close()
"""


class History:
    """A replica at rest, its database, and `states`: what was in the table, by txid or by `n` of a row of `marks`."""

    def __init__(self, folder, replica, database, states):
        self.folder, self.replica, self.database, self.states = folder, replica, database, states
        self.config = harness.litestream_config(folder / "litestream.yml", database, databases.settings_of(replica), THEIR_LEVELS)

    def ours(self, **target):
        """The bytes that we restore, and the txid."""
        copy = self.folder / "ours.db"
        copy.unlink(missing_ok=True)
        txid = databases.restore(self.replica, copy, json.dumps(target) if target else None)
        return copy.read_bytes(), txid

    def theirs(self, litestream, *options, by_url=False):
        """The bytes that litestream restores; what it says when it cannot, as a string."""
        copy = self.folder / "theirs.db"
        copy.unlink(missing_ok=True)
        # By configuration: by URL it looks at the times of the uploads first.
        place = ["-config", self.config, *options, "-o", copy, self.database]
        if by_url:
            place = [*options, "-o", copy, databases.url(self.replica)]
        words = [str(word) for word in (litestream, "restore", *place)]
        done = subprocess.run(words, capture_output=True, text=True, env=harness.clean_environment())
        return copy.read_bytes() if done.returncode == 0 else done.stdout + done.stderr

    def content(self, sql):
        """A row of what was restored last."""
        with contextlib.closing(plain(self.folder / "ours.db")) as c:
            assert one(c, "PRAGMA integrity_check") == "ok"
            (row,) = c.execute(sql).fetchall()
            return row


def some(things, replica):
    """All, or as many as are cheap: litestream asks a bucket for the time of every object."""
    things, is_bucket = list(things), isinstance(replica, s3_servers.Bucket)
    count = (25 if is_bucket else len(things)) if LONG else (4 if is_bucket else 20)
    return things if len(things) <= count else sorted(random.Random(3).sample(things, count))


def places(kinds, start, tmp_path_factory, name):
    """A folder and a replica of each kind."""
    for kind in kinds:
        folder = tmp_path_factory.mktemp(name)
        is_folder = kind == "folder"
        yield folder, folder / "replica" if is_folder else s3_servers.Bucket(start(kind), f"{name}/{folder.name}")


@pytest.fixture(scope="module")
def ours(tmp_path_factory, start):
    """By journal mode and place: what we wrote with levels, snapshots and retention, until something of each had gone."""
    began, histories, writers = time.monotonic(), [], []
    with contextlib.ExitStack() as stack:
        for (journal, _), (folder, replica) in zip(OURS, places([k for _, k in OURS], start, tmp_path_factory, "ours")):
            histories.append(History(folder, replica, folder / "app.db", {}))
            words = [harness.ROOT / "python-tests", folder / "app.db", databases.url(replica), json.dumps(SETTINGS), journal]
            writers.append(stack.enter_context(harness.Process(WRITER, *words)))

        def heard(history, line):
            txid, count, total = line.split()
            history.states[int(txid)] = (int(count), float(total))

        def is_old():
            for history, writer in zip(histories, writers):
                heard(history, writer.line())
            done = (is_pruned(history.replica) and ranges(history.replica, 2) for history in histories)
            return time.monotonic() - began > SECONDS_MIN and all(done)

        harness.wait_for(is_old, "replicas of which something was pruned", 90 + SECONDS_MIN)
        for history, writer in zip(histories, writers):
            for line in writer.finish():
                heard(history, line)
    return dict(zip(OURS, histories))


@pytest.mark.parametrize("kind", OURS)
def test_litestream_restores_every_restore_point_of_ours(ours, kind, litestream):
    history = ours[kind]
    kept = [txid for txid, _ in points(history.replica)]
    gone = sorted(set(history.states) - set(kept))
    assert ranges(history.replica, 0)[0][0] > 1 and ranges(history.replica, 9) and len(kept) > 10 and gone
    for txid in some(kept, history.replica):
        mine, restored = history.ours(txid=txid)
        assert restored == txid and mine == history.theirs(litestream, "-txid", f"{txid:016x}", by_url=True), txid
        assert history.content("SELECT count(*), total(length(x)) FROM t") == history.states[txid]
    newest = history.database.read_bytes()
    assert history.ours() == (newest, kept[-1]) and history.theirs(litestream, by_url=True) == newest
    # A txid that was merged away neither can restore: no file ends there.
    for txid in random.Random(1).sample(gone, min(5, len(gone))):
        said = history.theirs(litestream, "-txid", f"{txid:016x}", by_url=True)
        assert "no matching backup files available" in said
        nearest = max((other for other in kept if other < txid), default=None)
        words = f"nearest earlier one that can be restored is {nearest} " if nearest else "no earlier one can be restored"
        with pytest.raises(sqlite3.OperationalError, match=words):
            history.ours(txid=txid)


def assert_same_at_every_time(history, kept, litestream):
    """Both programs, at a time between any two of the points in time."""
    # Of a file of exactly that time litestream takes nothing.
    pairs = [(txid, at, later) for (txid, at), (_, later) in zip(kept, kept[1:]) if later - at > 1]
    assert len(pairs) > 10
    for txid, at, later in some(pairs, history.replica):
        between = random.Random(txid).randrange(at + 1, later)
        mine, restored = history.ours(timestamp=text(between))
        assert restored == txid and mine == history.theirs(litestream, "-timestamp", text(between)), text(between)


@pytest.mark.parametrize("kind", OURS)
def test_litestream_agrees_at_every_time_of_ours(ours, kind, litestream):
    history, kept = ours[kind], points(ours[kind].replica)
    assert_same_at_every_time(history, kept, litestream)
    (first, began), (newest, ended) = kept[0], kept[-1]
    for at in (ended, ended + 60_000):
        assert history.ours(timestamp=text(at))[1] == newest
    whole = history.database.read_bytes()
    assert history.theirs(litestream, "-timestamp", text(ended + 60_000)) == whole
    assert "timestamp does not exist" in history.theirs(litestream, "-timestamp", text(ended + 60_000), by_url=True)
    assert "no matching backup files" in history.theirs(litestream, "-timestamp", text(began - 1))
    with pytest.raises(sqlite3.OperationalError, match=f"first restorable moment is {text(began)}, of txid {first} "):
        history.ours(timestamp=text(began - 1))


def write_theirs(histories, seconds_min):
    """Commits to all databases in turn until litestream has made, merged and let go of everything."""
    began, dice = time.monotonic(), random.Random(2)
    connections = [plain(history.database) for history in histories]

    def commit(c, history, n):
        c.execute("BEGIN IMMEDIATE")
        c.execute("UPDATE marks SET n = ?", (n,))
        c.execute("INSERT INTO t(x) VALUES (randomblob(?))", (dice.randrange(5000),))
        if dice.random() < 0.1:
            c.execute("DELETE FROM t WHERE id % 2 = ?", (n % 2,))
        history.states[n] = c.execute("SELECT count(*), total(length(x)) FROM t").fetchone()
        c.execute("COMMIT")

    def is_old():
        for c, history in zip(connections, histories):
            commit(c, history, len(history.states))
        time.sleep(0.05)  # so that the moments differ
        done = (is_pruned_by_them(history.replica) for history in histories)
        return time.monotonic() - began > seconds_min and all(done)

    harness.wait_for(is_old, "replicas of which something was pruned", 90 + seconds_min)
    for c in connections:
        c.close()


def is_pruned_by_them(replica):
    captured = ranges(replica, 0)
    return len(captured) > 10 and captured[0][0] > 1 and len(ranges(replica, 1)) > 3 and ranges(replica, 2) and len(ranges(replica, 9)) > 1


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, start, litestream):
    """By place: what the real litestream wrote, until something of each kind was there and level 0 had gone in part."""
    histories = []
    with contextlib.ExitStack() as stack:
        for folder, replica in places(THEIRS, start, tmp_path_factory, "theirs"):
            history = History(folder, replica, folder / "app.db", {})
            c = plain(history.database)
            one(c, "PRAGMA journal_mode=wal")
            c.executescript("CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE TABLE marks(n); INSERT INTO marks VALUES (-1)")
            c.close()
            histories.append(history)
            process = harness.Process([litestream, "replicate", "-config", history.config])
            stack.enter_context(process)
            history.process = process
        write_theirs(histories, SECONDS_MIN)
        for history in histories:
            history.process.child.send_signal(signal.SIGTERM)
            history.process.child.wait(60)
    return dict(zip(THEIRS, histories))


def assert_committed(history):
    """What was restored is the state after one of the commits, whole."""
    n, count, total = history.content("SELECT n, (SELECT count(*) FROM t), (SELECT total(length(x)) FROM t) FROM marks")
    assert n == -1 and count == 0 or history.states[n] == (count, total)
    return n


@pytest.mark.parametrize("kind", THEIRS)
def test_we_restore_everything_that_litestream_keeps(theirs, kind, litestream):
    history = theirs[kind]
    kept = [txid for txid, _ in points(history.replica)]
    ends = {last for level in range(10) for _, last in ranges(history.replica, level)}
    assert ranges(history.replica, 0)[0][0] > 1 and len(kept) > 10
    commits = []
    for txid in some(sorted(ends), history.replica):
        theirs_at = history.theirs(litestream, "-txid", f"{txid:016x}", by_url=True)
        assert (txid in kept) == isinstance(theirs_at, bytes), (txid, theirs_at)
        if txid in kept:
            assert history.ours(txid=txid) == (theirs_at, txid), txid
            commits.append(assert_committed(history))
    assert commits == sorted(commits) and max(ends) == kept[-1]
    assert history.ours() == (history.theirs(litestream, by_url=True), kept[-1])
    assert assert_committed(history) == max(history.states), "the last commit"


@pytest.mark.parametrize("kind", THEIRS)
def test_we_agree_with_litestream_at_every_time(theirs, kind, litestream):
    assert_same_at_every_time(theirs[kind], points(theirs[kind].replica), litestream)


@pytest.mark.parametrize("kind", THEIRS)
def test_verify_finds_no_fault_in_what_litestream_keeps(theirs, kind):
    history = theirs[kind]
    url = databases.url(history.replica)
    with contextlib.closing(sqlite3.connect(":memory:")) as c:
        assert one(c, "SELECT replica_verify(?)", url) == points(history.replica)[-1][0]
    found = json.loads(harness.run([harness.CLI, "verify", "--json", url]))
    assert found["ok"], found
