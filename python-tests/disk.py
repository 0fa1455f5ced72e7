"""A disk that loses power: what a program did to the files of a folder, and what may be left of it.

`record` runs a program under disk_watch.c. `Disk` plays the record up to any call and answers states that the disk may be
in when the power goes there:

- What was written to a file lasts when that file was synced afterwards. Until then each sector of 512 bytes of each write
  is there or not, on its own and in any order; so is each change of its length, and each store through a mapping.
- A name (made, moved, removed) lasts when its folder was synced afterwards. Until then it is there or not: the names of one
  folder in the order in which they were made (as journalling file systems have it), or in any. A sync of the file alone does
  not make its name last. A move takes place or does not, both names at once.
- Times last with fsync and not with fdatasync. Until then they are those of the last fsync, or the newest.
"""

import random
import struct
import subprocess

import harness

SOURCE = harness.ROOT / "python-tests" / "disk_watch.c"
PROGRAM = harness.TARGET / "tools" / "disk_watch"
RECORD = struct.Struct("<c3xIQQqqQ")
SECTOR = 512


def build():
    """The program that watches, made anew if its source is newer."""
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < SOURCE.stat().st_mtime:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        made = PROGRAM.with_suffix(".new")
        harness.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", made, SOURCE])
        made.rename(PROGRAM)
    return PROGRAM


def record(folder, trace, command, fault="-", only="-", timeout=120, **options):
    """Runs a command whose changes below `folder`, which is empty, are written to the file `trace`; see disk_watch.c."""
    words = [build(), folder, trace, fault, only, *command]
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=timeout, **options)


def read(trace):
    """The records of a trace, as tuples: operation, file, offset, end, (modified, changed), data."""
    data, at, records = trace.read_bytes(), 0, []
    while at < len(data):
        op, file, offset, end, modified, changed, length = RECORD.unpack_from(data, at)
        at += RECORD.size
        records.append((op.decode(), file, offset, end, (modified, changed), data[at : at + length]))
        at += length
    return records


class File:
    """One file: what lasts of it, and what was done since."""

    def __init__(self, is_folder=False):
        self.is_folder = is_folder
        self.data = bytearray()
        self.pending = []
        self.version = 0
        self.times = self.newest_times = (0, 0)

    def sync(self, with_times):
        for change in self.pending:
            apply(self.data, change)
        self.version += bool(self.pending)
        self.pending = []
        if with_times:
            self.times = self.newest_times


def apply(data, change):
    """One change of a file's content, whole."""
    kind, offset, content = change
    if kind == "W":
        if len(data) < offset:
            data.extend(bytes(offset - len(data)))
        data[offset : offset + len(content)] = content
    elif kind == "T":
        del data[offset:]
        data.extend(bytes(offset - len(data)))
    else:  # room, up to this offset
        data.extend(bytes(max(0, offset - len(data))))


def sectors(change):
    """The parts of a write that reach the disk each on its own."""
    kind, offset, content = change
    if kind != "W":
        return [change]
    parts, at = [], 0
    while at < len(content):
        end = min(len(content), at + SECTOR - (offset + at) % SECTOR)
        parts.append(("W", offset + at, content[at:end]))
        at = end
    return parts


class Choice:
    """What is left of changes that were not synced: `keeps` answers for one part of content, `names` for a folder's names."""

    def __init__(self, name, content, names, times, seed=None):
        self.name, self.content, self.names, self.times, self.seed = name, content, names, times, seed

    def __repr__(self):
        return self.name


LOST = Choice("lost", 0, 0, 0)
KEPT = Choice("kept", 1, 1, 1)
CONTENT_KEPT = Choice("content", 1, 0, 1)
NAMES_KEPT = Choice("names", 0, 1, 0)


def some(seed):
    """A part of what was not synced."""
    r = random.Random(seed)
    share = r.choice([0.1, 0.5, 0.9, 0.98])
    return Choice(f"some-{seed}", share, r.choice([0, 1, "first", "first", "any"]), r.choice([0, 1]), seed)


class Disk:
    """The files below a folder, as a record says."""

    def __init__(self):
        self.files = {0: File(True)}
        self.names = {}  # that last: path -> file
        self.now = {}  # all of them
        self.pending = []  # changes of names: {path: file or None}, the folders they are in

    def play(self, entry):
        op, file, offset, end, times, data = entry
        if op in "CM":
            self.files[file] = File(op == "M")
            if data:
                self.rename({data.decode(): file})
        elif op in "WP":
            self.files[file].pending.append(("W", offset, data))
        elif op == "T":
            self.files[file].pending.append(("T", offset, b""))
        elif op == "A":
            self.files[file].pending.append(("A", end, b""))
        elif op in "SD":
            self.files[file].sync(op == "S")
            if self.files[file].is_folder:
                self.sync_names(file)
        elif op == "L":
            self.rename({data.decode(): file})
        elif op == "R":
            old, new = data.decode().split("\0")
            self.rename({**({old: None} if old else {}), new: file})
        elif op == "U":
            self.rename({data.decode(): None})
        if op in "CMWTA":
            self.files[file].newest_times = times

    def rename(self, change):
        folders = {path.rpartition("/")[0] for path in change}
        self.pending.append((change, folders))
        change_names(self.now, change)

    def sync_names(self, file):
        paths = [path for path, there in self.now.items() if there == file] or [""]
        mine = [entry for entry in self.pending if entry[1] & set(paths)]
        self.pending = [entry for entry in self.pending if entry not in mine]
        for change, _ in mine:
            change_names(self.names, change)

    def left(self, choice):
        """What is left when the power goes now: path -> (content, times), folders with None; and a key that is equal for
        equal states."""
        r = random.Random(choice.seed)
        names, key = dict(self.names), [choice.names if choice.names in (0, 1) else None]
        ended = set()
        for change, folders in self.pending:
            if choice.names in (0, 1):
                keep = choice.names
            elif choice.names == "any":
                keep = r.random() < 0.5
            else:
                ended |= folders if r.random() < 0.2 else set()
                keep = not folders & ended
            key.append(keep)
            if keep:
                change_names(names, change)
        found = {}
        for path, file in sorted(names.items()):
            folder = path.rpartition("/")[0]
            if folder and folder not in found:
                continue  # it went with its folder
            there = self.files[file]
            if there.is_folder:
                found[path] = (None, None)
                key.append(path)
                continue
            content, kept = there.data, 0
            if there.pending and choice.content:
                content = bytearray(content)
                for number, part in enumerate(p for change in there.pending for p in sectors(change)):
                    if choice.content == 1 or r.random() < choice.content:
                        kept |= 1 << number
                        apply(content, part)
            times = there.newest_times if choice.times else there.times
            found[path] = (content, times)
            key.append((path, file, there.version, len(there.pending), kept, times))
        return found, tuple(key)


def change_names(names, change):
    for path, file in change.items():
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file
