"""Restores to a time: every instant of a real history against a copy kept at that moment, and against the real litestream."""

import datetime
import json
import random
import sqlite3
import time

import databases
import harness
import pytest
from databases import connect, sync


def text(ms):
    """RFC 3339 of milliseconds since 1970."""
    seconds, ms = divmod(ms, 1000)
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime(f"%Y-%m-%dT%H:%M:%S.{ms:03d}Z")


def milliseconds(timestamp):
    return round(datetime.datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp() * 1000)


def points(replica):
    databases.load()
    c = sqlite3.connect(":memory:")
    try:
        listed = c.execute("SELECT txid, timestamp FROM replica_restore_points(?)", (databases.url(replica),)).fetchall()
        return [(txid, milliseconds(timestamp)) for txid, timestamp in listed]
    finally:
        c.close()


def newest_until(kept, at):
    return max((txid for txid, when in kept if when <= at), default=None)


def history(database, replica, count=12):
    """Commits at different moments; what was in the table after each txid."""
    c = connect(database, replica, replica_interval="0")
    c.execute("CREATE TABLE t(x)")
    contents = {sync(c): []}
    for n in range(count):
        # So that the moments differ.
        time.sleep(0.003)
        c.execute("INSERT INTO t VALUES (?)", (n,))
        contents[sync(c)] = list(range(n + 1))
    c.close()
    return contents


def rows(path):
    c = sqlite3.connect(path)
    try:
        return [x for (x,) in c.execute("SELECT x FROM t ORDER BY x")]
    finally:
        c.close()


@pytest.mark.parametrize("replica", ["folder", "moto"], indirect=True)
def test_every_instant_gives_the_newest_state_until_then(replica, tmp_path):
    contents = history(tmp_path / "app.db", replica)
    kept = points(replica)
    assert [txid for txid, _ in kept] == sorted(contents), "every state is a restore point"
    moments = [when for _, when in kept]
    assert moments == sorted(moments)
    seed = random.randrange(1 << 30)
    print("seed", seed)
    instants = {at + by for at in moments for by in (-1, 0, 1)} | {
        random.Random(seed + n).randint(moments[0] - 5, moments[-1] + 5) for n in range(10)
    }
    for n, at in enumerate(sorted(instants)):
        copy, wanted = tmp_path / f"{n}.db", newest_until(kept, at)
        options = json.dumps({"timestamp": text(at)})
        if wanted is None:
            with pytest.raises(sqlite3.OperationalError, match=f"first restorable moment is {text(moments[0])}"):
                databases.restore(replica, copy, options)
            assert not copy.exists()
        else:
            assert databases.restore(replica, copy, options) == wanted, text(at)
            assert rows(copy) == contents[wanted]
            copy.unlink()


@pytest.mark.parametrize("replica", ["folder", "moto"], indirect=True)
def test_litestream_agrees_at_instants_that_are_no_file_s_own(replica, tmp_path, litestream):
    contents = history(tmp_path / "app.db", replica, 8)
    kept = points(replica)
    # By configuration: by URL it looks at the times of the uploads first.
    config = harness.litestream_config(tmp_path / "litestream.yml", tmp_path / "app.db", databases.settings_of(replica))
    compared = 0
    for (txid, at), (_, later) in zip(kept, kept[1:]):
        # Theirs leaves out a file of exactly that time.
        if later - at < 2:
            continue
        ours, theirs = tmp_path / f"ours-{txid}.db", tmp_path / f"theirs-{txid}.db"
        between = text((at + later) // 2 if (at + later) // 2 > at else at + 1)
        assert databases.restore(replica, ours, json.dumps({"timestamp": between})) == txid
        environment = replica.server.environment() if hasattr(replica, "files") else harness.clean_environment()
        command = [litestream, "restore", "-config", config, "-timestamp", between, "-o", theirs, tmp_path / "app.db"]
        harness.run(command, env=environment)
        assert ours.read_bytes() == theirs.read_bytes()
        assert rows(ours) == contents[txid]
        compared += 1
    assert compared > 3
