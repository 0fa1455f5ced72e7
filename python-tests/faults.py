"""`make faults`: lets the 1st, 2nd, ... Nth call of each kind fail, until there is no Nth call any more (docs/power-loss.md).

    faults.py [--small] [--only TEXT] [--every N] [--jobs N]
"""

import argparse
import collections
import concurrent.futures
import contextlib
import errno
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

import databases
import disk
import harness
from power_host import digest

HOST = harness.ROOT / "python-tests" / "fault_host.py"
# Class of calls, and how they fail; 0: a write writes half.
FAULTS = [
    ("read", errno.EIO),
    ("write", errno.ENOSPC),
    ("write", errno.EIO),
    ("write", 0),
    ("sync", errno.EIO),
    ("name", errno.EIO),
    ("name", errno.ENOSPC),
    ("unlink", errno.EIO),
    ("map", errno.ENOMEM),
    ("open", errno.EMFILE),
    ("open", errno.ENOSPC),
    ("room", errno.ENOSPC),
]
# In files of ours, and in those of SQLite.
OURS, THEIRS = "replica", "!replica"
BOUND = 60
# Of one kind; then it ends.
FINDINGS_MAX = 5
NOT_ACKNOWLEDGED = 51210
FORWARD = {"replica_on_behind": "rollforward"}
LEASE = {"replica_lease": "auto", "replica_lease_ttl": "3s"}


def works():
    """What is done while calls fail: name, configuration, whose files."""
    for journal in ("wal", "delete"):
        for durability in ("async", "commit"):
            yield f"capture-{journal}-{durability}", {"work": "capture", "journal": journal, "durability": durability}, OURS
    for journal in ("wal", "delete"):
        yield f"sqlite-{journal}", {"work": "capture", "journal": journal, "durability": "async"}, THEIRS
    yield "lease", {"work": "lease", "journal": "delete", "durability": "async", "settings": LEASE}, OURS
    required = {**LEASE, "replica_lease": "required"}
    yield "lease-required", {"work": "lease", "journal": "wal", "durability": "async", "settings": required}, OURS
    for journal in ("wal", "delete"):
        yield f"forward-{journal}", {"work": "forward", "journal": journal, "durability": "async", "settings": FORWARD}, "-"
    yield "compact", {"work": "compact", "journal": "wal", "durability": "async"}, OURS
    yield "restore", {"work": "restore", "journal": "wal", "durability": "async"}, "-"


class Finding(Exception):
    """What must not be."""


def host(folder, config, fault=None, only="-"):
    """Runs the work; answers what it told, and how many calls of the kind there were."""
    command = [harness.PYTHON, HOST, folder, json.dumps(config)]
    if fault is None:
        return told(harness.run(command, timeout=BOUND)), 0
    try:
        done = disk.record(folder, "-", command, fault, only, timeout=BOUND, env=harness.clean_environment())
    except subprocess.TimeoutExpired:
        raise Finding(f"not ended within {BOUND} s") from None
    if done.returncode != 0:
        raise Finding(f"ended with {done.returncode}: {done.stdout[-300:]} {done.stderr[-600:]}")
    return told(done.stdout), int(done.stderr.split()[-1])


def told(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def made_before(folder, config):
    """What upkeep and restore find: a replica of some files, old enough to be merged. What a roll forward finds: a database
    that is behind it."""
    if config["work"] not in ("compact", "restore", "forward"):
        return []
    kept = folder.parent / f"kept-{config['work']}-{config['journal']}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            made = pathlib.Path(made) / "made"
            made.mkdir()
            steps, _ = host(made, {**config, "work": "capture"})
            if config["work"] == "forward":
                early = (made / "db").read_bytes()
                steps += host(made, {**config, "work": "capture", "before": len(steps)})[0]
                (made / "db").write_bytes(early)
            (made / "marks").unlink()
            (made / "steps").write_text(json.dumps(steps))
            time.sleep(1.1)
            with contextlib.suppress(OSError):
                made.rename(kept)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    # The log belongs to the file that was copied.
    shutil.rmtree(folder / "db-replica")
    return json.loads((kept / "steps").read_text())


def returned(steps):
    """Numbers of the commits that did."""
    return [step["number"] for step in steps if step["step"] == "commit" and "error" not in step]


def look(folder, config, steps, is_ours):
    """Everything that must hold afterwards."""
    before = config["before"]
    numbers = {step["digest"]: step["number"] for step in steps if step["step"] == "begun"}
    healed = next((at for at, step in enumerate(steps) if at >= before and step["step"] == "healed"), len(steps))
    for at, step in enumerate(steps):
        if step["step"] != "commit" or "error" not in step:
            continue
        if at > healed and config["work"] in ("capture", "forward") and not is_read_only(config, step, is_ours):
            raise Finding(f"after the faults: {step}")
        if is_ours and not may_fail(config, step):
            raise Finding(f"a commit of the application failed: {step}")
    # Who is rolled forward is behind until it is opened.
    least = max(returned(steps[before:]), default=1) if config["work"] == "forward" else max(returned(steps), default=0)
    if (folder / "db").exists():
        number = number_of(folder / "db", numbers)
        if number < least:
            raise Finding(f"the database holds commit {number}, {least} returned")
    acknowledged = [step["number"] for step in steps if step["step"] == "synced"]
    if config["durability"] == "commit":
        acknowledged += returned(steps)
    restored(folder, numbers, max(acknowledged, default=0))
    if config["work"] == "restore" and (folder / "restored").exists():
        number_of(folder / "restored", numbers)
    if config["work"] != "restore":
        meet(folder, config)


def may_fail(config, step):
    if "no such table" in step["error"]:
        return True  # the commit that was to make it did not take place
    if config["durability"] == "commit" and (step["code"] == NOT_ACKNOWLEDGED or step["code"] & 0xFF in (5, 8)):
        return True  # it says that the replica lacks it; or nothing was written: busy, or open for reading
    return "replica_lease" in config.get("settings", {}) and step["code"] & 0xFF in (5, 8)


def is_read_only(config, step, is_ours):
    """Whether a connection says that SQLite opened its file for reading, as it does where the file cannot be opened for writing
    (unixOpen in os_unix.c). It stays so when it could be."""
    return not is_ours and config["kind"] == "open" and step["code"] & 0xFF == sqlite3.SQLITE_READONLY


def number_of(path, numbers):
    """Which commit a database holds; 0: none."""
    connection = sqlite3.connect(path)
    try:
        wrong = connection.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]
        found = digest(connection)
    except sqlite3.DatabaseError as error:
        raise Finding(f"{path.name}: {error}") from None
    finally:
        connection.close()
    if wrong or found is not None and found not in numbers:
        raise Finding(f"{path.name} holds what was never committed")
    return numbers.get(found, 0)


def restored(folder, numbers, least):
    copy = folder / "copy"
    if not (folder / "replica").exists():
        return
    try:
        databases.restore(folder / "replica", copy, '{"if_replica_exists": true}')
    except sqlite3.OperationalError as error:
        raise Finding(f"the replica does not restore: {error}") from None
    number = number_of(copy, numbers) if copy.exists() else 0
    if number < least:
        raise Finding(f"the replica restores to commit {number}, {least} was acknowledged")


def meet(folder, config):
    """Without faults replica and database are one again."""
    for _ in range(2):
        try:
            settings = {"replica_interval": "0", "replica_durability": config["durability"], **config.get("settings", {})}
            connection = databases.connect(folder / "db", folder / "replica", **settings)
            break
        except sqlite3.OperationalError as error:
            # The database never came to be.
            if "is missing or empty" not in str(error):
                raise Finding(f"afterwards: {error}") from None
            return
    try:
        connection.execute("PRAGMA busy_timeout=20000")
        if "replica_lease" in config.get("settings", {}):
            connection.execute("SELECT replica_lease_acquire(NULL, 20)").fetchall()
        connection.execute("CREATE TABLE IF NOT EXISTS after(x)")
        connection.execute("INSERT INTO after VALUES (1)")
        databases.sync(connection, 20)
    except sqlite3.Error as error:
        raise Finding(f"afterwards: {error}: {databases.status(connection)}") from None
    finally:
        connection.close()
    again = folder / "again"
    databases.restore(folder / "replica", again)
    if not (folder / "db").read_bytes().startswith(again.read_bytes()):
        raise Finding("afterwards the replica does not restore to the database")


def one(base, name, config, only, fault):
    """One run. Answers whether there was such a call, and a finding."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
    kind, first, last, error = fault
    try:
        before = made_before(folder, config)
        # Of all steps so many are of before the faults; commits are numbered on from there.
        config = {**config, "before": len(before), "kind": kind}
        steps, calls = host(folder, config, f"{kind}:{first}:{last}:{error}", only)
        if calls < first:
            return False, None
        if steps[-1]["step"] != "end":
            raise Finding(f"ended early: {steps[-3:]}")
        look(folder, config, before + steps, only == OURS)
        return True, None
    except Finding as finding:
        return True, str(finding)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(base, name, config, only, kind, error, every, lasting):
    """Every Nth call of one kind, once or from there on, until there is none."""
    counts, findings, at = collections.Counter(), [], 1
    while True:
        there, finding = one(base, name, config, only, (kind, at, 0 if lasting else at, error))
        if not there:
            return name, counts, findings
        counts["runs"] += 1
        if finding:
            findings.append(f"{name} {kind}:{at}:{0 if lasting else at}:{error}: {finding}")
        if len(findings) == FINDINGS_MAX:
            return name, counts, findings
        at += every


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    disk.build()
    started, total, failed = time.monotonic(), collections.Counter(), []
    base = tempfile.mkdtemp(prefix="faults-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    wanted = []
    for name, config, only in works():
        config["program"] = str(harness.CLI.resolve())
        for kind, error in FAULTS:
            for lasting in (False, True):
                title = f"{name} {kind}:{'all' if lasting else 'one'}:{error}"
                if options.only in title and (error or not lasting):
                    wanted.append((name, config, only, kind, error, lasting))
    if options.small:
        # A call of each kind in a few kinds of work, others in the others.
        wanted, options.every = [w for at, w in enumerate(wanted) if at % 7 == 3], 40
    try:
        with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
            every = lambda lasting: options.every * (7 if lasting else 1)
            running = [pool.submit(run, base, *w[:5], every(w[5]), w[5]) for w in wanted]
            by_name = collections.defaultdict(collections.Counter)
            for done in concurrent.futures.as_completed(running):
                name, counts, findings = done.result()
                by_name[name] += counts
                total += counts
                if options.verbose:
                    print(f"{wanted[running.index(done)][0::3]} {dict(counts)} {time.monotonic() - started:.0f} s", flush=True)
                for text in findings:
                    print(f"    {text[:700]}", flush=True)
                failed += findings
    finally:
        shutil.rmtree(base)
    for name, counts in by_name.items():
        print(f"{name:<24} {dict(counts)}")
    print(f"{total['runs']} runs, {len(failed)} findings, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
