"""SQLite's WAL-reset bug, in the interleaving that does the harm, on this machine's SQLite (docs/wal-reset.md).

`wal_reset.c` lets one connection restart the WAL just where a checkpoint of another has read the header of the
wal-index and has not yet looked how much of it is copied.
"""

import json
import subprocess

import harness
import pytest

GUARD = "replica_wal_reset_guard"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    program = tmp_path_factory.mktemp("wal_reset") / "wal_reset"
    source = harness.ROOT / "python-tests" / "wal_reset.c"
    harness.run(["gcc", "-O1", "-Wall", "-Werror", "-o", program, source, "-lsqlite3"])
    return program


class Run:
    """One run: who goes through `replvfs` of the two sides, and what plain SQLite finds afterwards."""

    def __init__(self, program, folder, how, ours=(), guard=None, **env):
        folder.mkdir(exist_ok=True)
        self.database, self.replica = folder / "app.db", folder / "replica"
        uri = f"file:{self.database}?vfs=replvfs&replica=file://{self.replica}" + (f"&{GUARD}={guard}" if guard else "")
        sides = [uri if side in ours else self.database for side in ("writer", "checkpointer")]
        extension = harness.EXTENSION if ours else "-"
        arguments = [program, self.database, extension, *sides, how]
        self.found = json.loads(harness.run(arguments, env=harness.clean_environment(**env)))

    @property
    def is_whole(self):
        return self.found["integrity"] == "ok" and self.found["committed"] == self.found["found"]

    @property
    def has_bug(self):
        """Whether this SQLite is one of those with the bug."""
        version = tuple(int(part) for part in self.found["sqlite"].split("."))
        return version < (3, 51, 3) and not (version[:2] in [(3, 44), (3, 50)] and version[2] >= {44: 6, 50: 7}[version[1]])


@pytest.mark.parametrize("how", ["lose", "corrupt"])
@pytest.mark.parametrize("ours, guard", [((), None), (("writer", "checkpointer"), "off")])
def test_without_the_guard_commits_are_lost_or_the_database_is_malformed(program, tmp_path, how, ours, guard):
    run = Run(program, tmp_path, how, ours, guard)
    assert run.is_whole != run.has_bug, run.found
    if run.has_bug and how == "lose":
        assert run.found["found"] < run.found["committed"], run.found
        assert run.found["integrity"] == "ok", "the rows are gone without a trace"
    elif run.has_bug:
        assert run.found["integrity"] != "ok", run.found


@pytest.mark.parametrize("how", ["lose", "corrupt"])
@pytest.mark.parametrize("ours", [("writer", "checkpointer"), ("writer",), ("checkpointer",)], ids="+".join)
def test_one_guarded_side_is_enough_and_the_replica_is_the_database(program, tmp_path, how, ours):
    run = Run(program, tmp_path, how, ours)
    assert run.is_whole, run.found
    # A foreign program that closes last leaves what the next open sends.
    uri = f"file:{run.database}?vfs=replvfs&replica=file://{run.replica}"
    script = f".load {harness.EXTENSION}\n.open '{uri}'\nSELECT replica_sync();\n"
    subprocess.run(["sqlite3"], input=script, text=True, check=True, capture_output=True, env=harness.clean_environment())
    harness.run([harness.CLI, "restore", f"file://{run.replica}", tmp_path / "restored.db"])
    assert (tmp_path / "restored.db").read_bytes() == run.database.read_bytes()


def test_the_guard_is_switched_by_the_environment_too(program, tmp_path):
    off = Run(program, tmp_path / "off", "lose", ("writer", "checkpointer"), SQLITEREPLICATE_WAL_RESET_GUARD="off")
    on = Run(program, tmp_path / "on", "lose", ("writer", "checkpointer"), SQLITEREPLICATE_WAL_RESET_GUARD="on")
    assert on.is_whole, on.found
    assert off.is_whole != off.has_bug, off.found
