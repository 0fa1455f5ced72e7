"""Replicas of the real litestream 0.3.13: restored as their application left them, or refused for what is wrong."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest

import harness
import s3_servers
from databases import rows

VERSION = "0.3.13"


@pytest.fixture(scope="session")
def program():
    return harness.older_litestream(VERSION)


def config(file, database, replica):
    """The configuration of 0.3.13, with WALs and snapshots that end within a second or two; `replica` may say otherwise."""
    settings = {"sync-interval": "100ms", "snapshot-interval": "2s", "retention": "1h", **replica}
    database = {
        "path": str(database),
        "monitor-interval": "50ms",
        "checkpoint-interval": "1s",
        "min-checkpoint-page-count": 20,
        "replicas": [settings],
    }
    file.write_text(json.dumps({"dbs": [database]}))
    return file


def write(database, page_size, rounds):
    """An application that grows, rewrites, shrinks and vacuums its database."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=30)
    connection.execute(f"pragma page_size = {page_size}")
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table if not exists t(id integer primary key, body blob)")
    for step in range(rounds):
        connection.execute("begin immediate")
        connection.executemany("insert into t(body) values (?)", [(os.urandom(700),) for _ in range(40)])
        connection.execute("update t set body = zeroblob(300) where id % 5 = ?", (step % 5,))
        connection.execute("commit")
        if step % 6 == 5:
            connection.execute("delete from t where id % 3 = 0")
            connection.execute("vacuum")
        time.sleep(0.1)
    return connection


def replicated(program, folder, replica, page_size=4096, rounds=40):
    """A database that an application wrote while 0.3.13 replicated it, both at rest afterwards."""
    database = folder / "app.db"
    sqlite3.connect(database).close()
    settings = config(folder / "litestream.yml", database, replica)
    with harness.Process([program, "replicate", "-config", settings]) as process:
        connection = write(database, page_size, rounds)
        time.sleep(1)
        process.child.send_signal(signal.SIGTERM)
        process.child.wait(60)
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    return database


def restore(url, output, environment=None):
    """Exit code and what was said; what fails leaves nothing."""
    output.unlink(missing_ok=True)
    done = subprocess.run(
        [harness.CLI, "restore", "--json", url, output],
        capture_output=True, text=True, timeout=120, env=environment or harness.clean_environment(),
    )
    assert output.exists() == (done.returncode == 0), done.stderr
    assert not list(output.parent.glob("*.tmp")), done.stderr
    return done.returncode, done.stdout + done.stderr


def segments(replica):
    """Segments of the newest snapshot's generation from its index on: (index, offset, path), in order."""
    snapshot = max(replica.glob("generations/*/snapshots/*.lz4"), key=lambda file: file.stat().st_mtime_ns)
    first = int(snapshot.name[:8], 16)
    found = []
    for file in snapshot.parent.parent.glob("wal/*.wal.lz4"):
        index, offset = (int(part, 16) for part in file.name.split(".")[0].split("_"))
        if index >= first:
            found.append((index, offset, file))
    return snapshot, sorted(found)


@pytest.fixture(scope="module")
def made(program, tmp_path_factory):
    """One replica in a folder with a single snapshot and many segments, and its application's database."""
    folder = tmp_path_factory.mktemp("made")
    place = {"type": "file", "path": str(folder / "replica"), "snapshot-interval": "1h"}
    database = replicated(program, folder, place)
    return database, folder / "replica"


@pytest.fixture
def replica(made, tmp_path):
    """A copy of it to be harmed, with the times of its objects."""
    return shutil.copytree(made[1], tmp_path / "replica", copy_function=shutil.copy2)


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_restores_what_the_application_wrote(program, litestream, tmp_path, page_size):
    replica = tmp_path / "replica"
    database = replicated(program, tmp_path, {"type": "file", "path": str(replica)}, page_size)
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    code, said = restore(f"file://{replica}", ours)
    assert code == 0, said
    told = json.loads(said)
    assert (told["txid"], told["page_size"], told["database_bytes"]) == (None, page_size, ours.stat().st_size)
    assert rows(ours) == rows(database)
    assert ours.read_bytes() == database.read_bytes()
    harness.run([litestream, "restore", "-o", theirs, f"file://{replica}"])
    assert ours.read_bytes() == theirs.read_bytes()


def test_restores_from_a_bucket(program, start, tmp_path):
    server = start("moto")
    place = {"type": "s3", "bucket": "bkt", "path": "legacy/app", "endpoint": server.endpoint, "force-path-style": True,
             "region": s3_servers.REGION, "access-key-id": s3_servers.ACCESS, "secret-access-key": s3_servers.SECRET}
    database = replicated(program, tmp_path, place, rounds=15)
    code, said = restore(server.url("legacy/app"), tmp_path / "ours.db", server.environment())
    assert code == 0, said
    assert (tmp_path / "ours.db").read_bytes() == database.read_bytes()


def test_restores_from_sql_and_answers_0(extension, made, tmp_path):
    connection = sqlite3.connect(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(str(extension))
    output = tmp_path / "ours.db"
    url = f"file://{made[1]}"
    call = "select replica_restore(?, ?, ?)"
    with pytest.raises(sqlite3.OperationalError, match="cannot be continued"):
        connection.execute(call, (url, str(output), '{"continue": true}'))
    with pytest.raises(sqlite3.OperationalError, match="has no txids"):
        connection.execute(call, (url, str(output), '{"txid": 1}'))
    assert connection.execute(call, (url, str(output), None)).fetchone() == (0,)
    assert rows(output) == rows(made[0])


def test_a_missing_segment_is_an_error_unless_it_is_the_last_of_its_wal(replica, tmp_path):
    _, found = segments(replica)
    assert len({index for index, _, _ in found}) > 1 and len(found) > 5
    for index, offset, file in found:
        away = file.rename(tmp_path / "away")
        code, said = restore(f"file://{replica}", tmp_path / "out.db")
        is_last = not any(other == index and at > offset for other, at, _ in found)
        is_alone = not any(other == index and at != offset for other, at, _ in found)
        if not is_last or (is_alone and index < found[-1][0]):
            assert code == 1 and ("missing" in said or "lacks" in said), (file, said)
        away.rename(file)


def test_a_damaged_object_is_an_error_that_names_it(replica, tmp_path):
    snapshot, found = segments(replica)
    files = [snapshot, *(file for _, _, file in found[:: max(1, len(found) // 12)])]
    for number, file in enumerate(files):
        whole, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)
        at = 11 + (number * 7919) % (len(whole) - 15)
        for harmed in [
            whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :],
            whole[: len(whole) // 2],
            whole[:-8],
            whole + b"x",
            b"",
        ]:
            file.write_bytes(harmed)
            os.utime(file, ns=times)
            code, said = restore(f"file://{replica}", tmp_path / "out.db")
            assert code == 1 and file.name in said and "damaged" in said, (file, said)
        file.write_bytes(whole)
        os.utime(file, ns=times)
    assert restore(f"file://{replica}", tmp_path / "out.db")[0] == 0


def test_two_segments_that_changed_places_are_an_error(replica, tmp_path):
    _, found = segments(replica)
    for (_, _, one), (_, _, other) in zip(found, found[1:]):
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second), other.write_bytes(first)
        code, said = restore(f"file://{replica}", tmp_path / "out.db")
        assert code == 1, said
        one.write_bytes(first), other.write_bytes(second)


def test_layouts_that_nobody_reads_are_named(tmp_path):
    generation = "generations/0123456789abcdef"
    for name, said in [
        (f"{generation}/wal/00000000.wal.lz4", "Litestream 0.3.0 to 0.3.4"),
        (f"{generation}/wal/0000000000000000/0000000000000000.wal.lz4", "a beta of Litestream 0.4"),
    ]:
        replica = tmp_path / name.replace("/", "-")
        (replica / name).parent.mkdir(parents=True)
        (replica / name).write_bytes(b"x")
        code, text = restore(f"file://{replica}", tmp_path / "out.db")
        assert code == 1 and said in text and "restore it with" in text, text


def test_an_encrypted_object_is_named_with_what_to_do(replica, tmp_path):
    snapshot, _ = segments(replica)
    snapshot.write_bytes(b"age-encryption.org/v1\n-> X25519 x\n")
    code, said = restore(f"file://{replica}", tmp_path / "out.db")
    assert code == 1 and "encrypted with age" in said, said
