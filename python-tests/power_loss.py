"""`make power-loss`: cuts the power at every call of a program that commits, and looks at what may be left (docs/power-loss.md).

    power_loss.py [--small] [--only TEXT] [--every N] [--states N] [--seed N] [--jobs N]
    power_loss.py --skip NAME --first ...                as if those syncs were not made, which must be found
    power_loss.py --replay TRACE --at N --state NAME     one state of a kept record again, left for a look
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import struct
import sys
import tempfile
import time

import disk
import harness

HOST = harness.ROOT / "python-tests" / "power_host.py"
CHECK = harness.ROOT / "python-tests" / "power_check.py"
KEPT = harness.TARGET / "power-loss"
JOURNALS = ["delete", "truncate", "persist", "wal", "memory", "off"]
LEVELS = ["off", "normal", "full", "extra"]
# What `make test` runs.
SMALL = [
    "delete-normal-async-20ms",
    "delete-extra-commit-0",
    "truncate-full-async-0",
    "persist-full-commit-0",
    "wal-normal-commit-0",
    "wal-full-async-0",
    "wal-full-async-20ms",
    "wal-extra-commit-0",
]
# Syncs that a program could leave out: of which files, or, with a slash behind, folders; and a program that shows it. Each must
# be found, or it is in vain.
SKIPS = {
    "database": (r"db", "delete-full-async-0"),
    "journal": (r"db-journal", "delete-full-async-0"),
    "wal": (r"db-wal", "wal-full-async-0"),
    "folder": (r"/", "delete-extra-commit-0"),
    "object": (r"replica/.*\.ltx", "delete-extra-commit-0"),
    "object-name": (r"replica(/.*)?/", "wal-normal-commit-0"),
    "log": (r"db-replica/.*\.ltx", "wal-full-async-20ms"),
    "log-name": (r"db-replica(/.*)?/", "wal-full-async-20ms"),
    "state": (r"db-replica/state", "persist-full-commit-0"),
}
# Later than anything: the pretended start of the machine.
NEVER = 1 << 62
STATE_WORDS = {"boot": 1, "device": 9, "inode": 10, "clean": 16}


def configurations(replicated=True):
    """Each journal mode and `synchronous`, with each durability of the replica."""
    for journal in JOURNALS:
        for level in LEVELS:
            # Without a journal on disk a loss of power may leave anything; what `synchronous` is then matters little.
            if journal in ("memory", "off") and level != "full":
                continue
            for durability, interval, pause in [("async", "0", 0), ("async", "20ms", 0.004), ("commit", "0", 0)]:
                name = f"{journal}-{level}-{durability}-{interval}" if replicated else f"plain-{journal}-{level}"
                yield dict(name=name, journal=journal, synchronous=level, durability=durability, interval=interval, pause=pause, replicated=replicated, extension=str(harness.EXTENSION))
                if not replicated:
                    break


def promised(config, commits):
    """How many commits plain SQLite keeps through a loss of power, where `commits` returned."""
    journal, level = config["journal"], LEVELS.index(config["synchronous"])
    if journal == "wal":
        return commits if level >= 2 else 0
    if journal == "persist":
        return commits if level >= 1 else 0
    if journal == "truncate":
        return commits if level >= 2 else max(0, commits - level)
    if journal == "delete":
        # The removed journal may come back, but for EXTRA.
        return (commits if level == 3 else max(0, commits - 1)) if level else 0
    return 0


def may_be_corrupt(config):
    """Whether plain SQLite itself leaves to chance that the database is whole."""
    return config["journal"] in ("memory", "off") or config["synchronous"] == "off" or config["synchronous"] == "normal" and config["journal"] != "wal"


def without(records, skipped):
    """The records as if the syncs of that name in SKIPS had not been made."""
    if not skipped:
        return records
    names = collections.defaultdict(list, {0: ["/"]})
    for op, file, _, _, _, data in records:
        if op in "CMLR" and data:
            names[file].append(data.decode().rpartition("\0")[2] + "/" * (op == "M"))
    wanted = re.compile(SKIPS[skipped][0])
    left = [r for r in records if r[0] not in "SD" or not any(wanted.fullmatch(name) for name in names[r[1]])]
    assert len(left) < len(records), f"the program makes no sync of {skipped}"
    return left


class Marks:
    """What the program told by a moment of its record."""

    def __init__(self):
        self.begun = self.commits = self.synced = 0
        self.is_closed = False
        self.last = ""

    def read(self, text):
        for line in text.splitlines():
            kind, *words = line.split()
            self.last = line
            self.is_closed = kind == "closed" or self.is_closed and kind != "begin"
            if kind == "begin":
                self.begun = int(words[0])
            elif kind == "commit":
                self.commits = int(words[0])
            elif kind == "synced":
                self.synced = int(words[0])


def digests(records, marks):
    """What the database held after each commit -> its number."""
    found = {None: 0}
    for op, file, _, _, _, data in records:
        if op == "W" and file == marks:
            for line in data.decode().splitlines():
                if line.startswith("commit "):
                    _, number, digest = line.split()
                    found[digest] = int(number)
    return found


class Finding(Exception):
    """What a state shows that it must not."""


def judge(config, marks, known, answer):
    """Whether a state keeps every promise. Answers what was found of it, for the counts."""
    if "died" in answer:
        raise Finding(answer["died"])
    plain = answer["plain"]
    number = known.get(plain.get("digest"), -1) if "wrong" not in plain else -1
    least = promised(config, marks.commits)
    if number < 0 and not may_be_corrupt(config):
        raise Finding(f"plain SQLite finds no committed state: {plain}")
    if 0 <= number < least and not may_be_corrupt(config):
        raise Finding(f"plain SQLite finds commit {number} of {marks.commits}, promised are {least}")
    if not config["replicated"]:
        return "whole" if number >= 0 else "damaged"
    restored, reopened = answer["restored"], answer["reopened"]
    if "wrong" in restored or restored["digest"] not in known:
        raise Finding(f"the replica restores to nothing that was committed: {restored}")
    sent = known[restored["digest"]]
    waited = marks.commits if config["durability"] == "commit" else marks.synced
    if sent < waited:
        raise Finding(f"the replica restores to commit {sent}, it has acknowledged {waited}")
    if number < 0:
        return "damaged"
    if "restored_at_open" in reopened:
        came = known.get(reopened["restored_at_open"], -1)
        if came < waited:
            raise Finding(f"nothing was there, {sent} in the replica, {came} after replica_if_missing=restore")
        return "missing"
    # Then the disk keeps nothing in any order: a person must say what is to be, and the file may win with what it has.
    is_anything = config["synchronous"] == "off" or config["journal"] in ("memory", "off")
    if is_anything and any(text in reopened.get("refused", "") for text in ("nobody can tell", "was left by another database")):
        return "a person is asked"
    # The journal of the very first commit came back: there are no pages to tell anything by.
    if number == 0 and sent <= 1 and least == 0 and "nobody can tell" in reopened.get("refused", ""):
        return "a person is asked"
    # A transaction that was rolled back left other bytes in free pages; in another commit page 1 could be the same, too.
    is_refused = config["durability"] == "commit" and "nobody can tell" in reopened.get("refused", "")
    if is_refused and number == sent and config["journal"] != "wal":
        return "a person is asked"
    if "refused" in reopened:
        raise Finding(f"database {number}, replica {sent}: refused: {reopened['refused']}")
    if "digest" not in reopened:
        raise Finding(f"database {number}, replica {sent}: {reopened}")
    came = known.get(reopened["digest"], -1)
    told = f"commit {number} was there, {sent} in the replica, {least} promised, {came} after the next open: {reopened.get('event')}"
    if came < (0 if is_anything else max(number, waited)):
        raise Finding(told)
    if "wrong" in reopened:
        raise Finding(f"{told}: {reopened['wrong']}")
    return "ahead" if came > sent else "rolled forward" if came > number else "same"


class Checker:
    """The program that looks at states, started anew when it ends."""

    def __init__(self):
        self.process = None

    def ask(self, folder, config):
        if self.process is None:
            environment = harness.clean_environment(SQLITEREPLICATE_TEST_BOOTED_NS=NEVER)
            self.process = harness.Process([harness.PYTHON, CHECK], env=environment)
        self.process.tell(json.dumps({"folder": str(folder), "config": config}))
        lines = []
        while (line := self.process.line(60)) is not None:
            if line.startswith('{"plain"'):
                return json.loads(line)
            lines.append(line)
        code = self.process.child.wait()
        self.end()
        raise Finding(f"the program that opens it ended with {code}: {lines[-3:]}")

    def end(self):
        if self.process:
            self.process.__exit__()
            self.process = None


def mix(words):
    """The checksum of a clean mark (src/staging/state.rs)."""
    made = 0xCBF2_9CE4_8422_2325
    for byte in b"".join(struct.pack("<Q", word) for word in words):
        made = (made ^ byte) * 0x0100_0000_01B3 % (1 << 64)
    return max(made, 1)


def put(folder, left, database_inode):
    """Writes a state of the disk. The log's marks speak of the file by its inode and times, which are others here."""
    folder.mkdir()
    for path, (content, _) in left.items():
        if content is None:
            (folder / path).mkdir()
        elif path != "marks":
            (folder / path).write_bytes(content)
    state = folder / "db-replica" / "state"
    if not state.exists() or state.stat().st_size < 256:
        return
    content = bytearray(state.read_bytes())
    words = lambda at, count: list(struct.unpack_from(f"<{count}Q", content, 8 * at))
    store = lambda at, *values: struct.pack_into(f"<{len(values)}Q", content, 8 * at, *values)
    if any(words(STATE_WORDS["boot"], 2)):
        store(STATE_WORDS["boot"], 1, 2)
    if (folder / "db").exists() and words(STATE_WORDS["inode"], 1) == [database_inode]:
        now = (folder / "db").stat()
        store(STATE_WORDS["device"], now.st_dev, now.st_ino)
        clean = words(STATE_WORDS["clean"], 7)
        if clean[0] and clean[6] == mix(clean[:6]) and clean[1] == database_inode:
            is_same = (clean[3], clean[4]) == left["db"][1]
            times = [now.st_mtime_ns, now.st_ctime_ns] if is_same else clean[3:5]
            marked = [1, now.st_ino, clean[2], *times, clean[5]]
            store(STATE_WORDS["clean"], *marked, mix(marked))
    # Written in place: its own inode does not matter.
    state.write_bytes(content)


def run(config, options):
    """Records one program and looks at states of its disk. Answers name, counts, findings."""
    counts, findings = collections.Counter(), []
    base = pathlib.Path(tempfile.mkdtemp(prefix="power-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    checker = Checker()
    try:
        watched, trace = base / "disk", base / "trace"
        watched.mkdir()
        done = disk.record(watched, trace, [harness.PYTHON, HOST, watched, json.dumps(config)], env=harness.clean_environment())
        if done.returncode != 0:
            raise AssertionError(f"{config['name']}: {done.stdout}{done.stderr}")
        inode = (watched / "db").stat().st_ino
        records = without(disk.read(trace), options.skip)
        counts["calls"] = len(records)
        seen = {}
        for at, choice, left, key, marks, known in states(records, options, config["name"]):
            if (key, marks.last) in seen:
                continue
            if key not in seen:
                counts["states"] += 1
                folder = base / "state"
                put(folder, left, inode)
                try:
                    seen[key] = checker.ask(folder, config)
                except Finding as finding:
                    seen[key] = {"died": str(finding)}
                shutil.rmtree(folder)
            seen[key, marks.last] = True
            counts["judged"] += 1
            try:
                counts[judge(config, marks, known, seen[key])] += 1
            except Finding as finding:
                counts["findings"] += 1
                findings.append((at, choice.name, str(finding)))
                if options.first:
                    break
        if findings:
            KEPT.mkdir(parents=True, exist_ok=True)
            kept = config["name"] + (f"-without-{options.skip}" if options.skip else "")
            shutil.copy(trace, KEPT / f"{kept}.trace")
            (KEPT / f"{kept}.json").write_text(json.dumps({"config": config, "inode": inode, "skip": options.skip}))
    finally:
        checker.end()
        shutil.rmtree(base)
    return config["name"], counts, findings


def states(records, options, name):
    """Each moment and state to be looked at."""
    marks_file = next(file for op, file, _, _, _, data in records if op == "C" and data == b"marks")
    known = digests(records, marks_file)
    playing, marks = disk.Disk(), Marks()
    for at, entry in enumerate(records):
        playing.play(entry)
        if entry[0] == "W" and entry[1] == marks_file:
            marks.read(entry[5].decode())
        if (at + options.seed) % options.every:
            continue
        choices = [disk.LOST, disk.KEPT, disk.CONTENT_KEPT, disk.NAMES_KEPT]
        choices += [disk.some(f"{options.seed}-{n}") for n in range(options.states)]
        if options.fixed < len(choices) - options.states:
            # A small setting takes them in turn.
            turn = at // options.every
            choices = [choices[(turn + n) % len(choices)] for n in range(options.fixed)]
        for choice in choices:
            left, key = playing.left(choice)
            yield at, choice, left, key, marks, known


def replay(options):
    """Puts one state of a kept record under target/power-loss/state, and says what is found in it."""
    trace = pathlib.Path(options.replay)
    kept = json.loads(trace.with_suffix(".json").read_text())
    records = without(disk.read(trace), kept["skip"])
    marks_file = next(file for op, file, _, _, _, data in records if op == "C" and data == b"marks")
    playing, marks = disk.Disk(), Marks()
    for entry in records[: options.at + 1]:
        playing.play(entry)
        if entry[0] == "W" and entry[1] == marks_file:
            marks.read(entry[5].decode())
    fixed = {choice.name: choice for choice in (disk.LOST, disk.KEPT, disk.CONTENT_KEPT, disk.NAMES_KEPT)}
    choice = fixed.get(options.state) or disk.some(options.state.removeprefix("some-"))
    left, _ = playing.left(choice)
    for folder in (KEPT / "state", KEPT / "looked-at"):
        shutil.rmtree(folder, ignore_errors=True)
        put(folder, left, kept["inode"])
    config = {**kept["config"], "extension": str(harness.EXTENSION)}
    checker = Checker()
    answer = checker.ask(KEPT / "looked-at", config)
    checker.end()
    print("told:", vars(marks))
    print(json.dumps(answer, indent=1))
    try:
        print(judge(config, marks, digests(records, marks_file), answer))
    except Finding as finding:
        print("FINDING:", finding)


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--states", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--fixed", type=int, default=4)
    parser.add_argument("--skip", choices=SKIPS)
    parser.add_argument("--first", action="store_true", help="of each program the first finding is enough")
    parser.add_argument("--replay")
    parser.add_argument("--at", type=int)
    parser.add_argument("--state")
    options = parser.parse_args(arguments)
    if options.replay:
        return replay(options)
    disk.build()
    started, total, failed = time.monotonic(), collections.Counter(), 0
    wanted = [c for replicated in (False, True) for c in configurations(replicated) if options.only in c["name"]]
    if options.small:
        options.every, options.states, options.fixed = 71, 1, 2
        wanted = [c for c in wanted if not c["replicated"] and c["synchronous"] != "off" or c["name"] in SMALL]
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        running = [pool.submit(run, config, options) for config in wanted]
        for done in concurrent.futures.as_completed(running):
            name, counts, findings = done.result()
            total += counts
            failed += bool(findings)
            print(f"{name:<30} {dict(counts)}", flush=True)
            kinds = collections.Counter()
            for at, state, text in findings:
                kind = "".join(c for c in text if not c.isdigit())[:60]
                kinds[kind] += 1
                if kinds[kind] <= 3:
                    print(f"    at {at}, {state}: {text}", flush=True)
    print(f"{len(wanted)} programs, {dict(total)}, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
