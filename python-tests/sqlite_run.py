"""One run of a test file or program of SQLite's, in folders of its own, and what is counted there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import sqlite_replicas
from sqlite_source import HOME, ROOT

LIBRARY = ROOT / "libsqlitereplicate.so"
NOBODY = 65534
LIMIT_S = 400
# The plain VFS; ours, which follows nothing; ours, with a replica for each database.
PLAIN, WRAP, REPLICAS = "plain", "wrap", "replicas"


def as_nobody(command):
    if os.getuid() != 0:
        return command
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]


def own(folder):
    """A new folder that the tests' user may write to."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
    return folder


class Run:
    """One test file, or program, in an empty folder of its own."""

    def __init__(self, name, mode):
        self.mode = mode
        self.folder = own(HOME / "work" / f"{name}-{mode}")
        # Their fsyncs are the one thing that is slow; that they happen is shown elsewhere.
        memory = pathlib.Path("/dev/shm")
        base = memory / f"sqlite-suite-{os.getpid()}" if memory.is_dir() else HOME / "replicas"
        self.side = own(base / self.folder.name)
        self.replicas, self.scratch, self.stats = (self.side / name for name in ("replicas", "scratch", "stats"))
        own(self.replicas)

    def environment(self):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("SQLITEREPLICATE_")}
        clean["HOME"] = str(self.folder)
        if self.mode == PLAIN:
            return clean
        clean |= {
            "SUITE_LIBRARY": str(LIBRARY),
            "SQLITEREPLICATE_DEFAULT_VFS": "1",
            "SQLITEREPLICATE_TEST_VFS_NAME": "unix",
            "SQLITEREPLICATE_TEST_STATS": str(self.stats),
        }
        if self.mode == WRAP:
            return clean | {"SQLITEREPLICATE_TEST_WRAP": "1"}
        # Faults that a test injects into all reads, and writes that a simulated crash holds back above us, are there for
        # longer than anybody wants to wait for their end.
        patience = {"SQLITEREPLICATE_FLUSH_TIMEOUT": "200ms"} if is_faulty(self.folder.name) else {}
        # It takes the locks of a restart of the WAL, and others, in an order that SQLite never does.
        guard = {"SQLITEREPLICATE_WAL_RESET_GUARD": "off"} if self.folder.name.startswith("shmlock-") else {}
        return clean | {"SQLITEREPLICATE_TEST_REPLICAS": str(self.replicas)} | patience | guard

    def execute(self, command, limit=LIMIT_S):
        """Output and status."""
        command = as_nobody([str(part) for part in command])
        options = {"cwd": self.folder, "env": self.environment(), "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, text=True, errors="replace", start_new_session=True, **options)
        try:
            output, _ = process.communicate(timeout=limit)
            return output, process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            output, _ = process.communicate()
            return output, "timeout"

    def look(self, paths):
        self.execute([sys.executable, "-c", sqlite_replicas.LOOK, LIBRARY, *paths])

    def compare(self):
        program = os.environ.get("TEST_CLI", ROOT / "target" / "lib" / "release" / "sqlitereplicate")
        return sqlite_replicas.compare(self.replicas, self.scratch, program, self.look)

    def calls(self):
        calls = {}
        for line in self.stats.read_text().splitlines() if self.stats.exists() else []:
            method, count = line.split()
            calls[method] = calls.get(method, 0) + int(count)
        return calls

    def finish(self, output, result):
        """Adds what is to be had from the folders, and removes them."""
        (HOME / "logs").mkdir(exist_ok=True)
        (HOME / "logs" / f"{self.folder.name}.log").write_text(output)
        result |= {"calls": self.calls(), "equal": 0, "looked": 0, "wrong": [], "late": []}
        if self.mode == REPLICAS:
            compared = self.compare()
            result |= {"equal": compared["equal"], "looked": compared["looked"]}
            result |= {"wrong": compared.wrong, "late": compared.late}
        if not (result["wrong"] and os.environ.get("KEEP")):
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.rmtree(self.side, ignore_errors=True)
        return result


def is_faulty(name):
    return any(word in name for word in ("ioerr", "fault", "malloc", "_err", "diskfull", "misc7", "crash", "vacuum3"))


def parse(output, status):
    summary = re.findall(r"(\d+) errors out of (\d+) tests", output)
    failures = re.findall(r"^!Failures on these tests: (.*)$", output, re.M)
    if not summary:
        return {"errors": -1, "tests": 0, "failures": [f"no summary, status {status}"]}
    errors, tests = map(int, summary[-1])
    return {"errors": errors, "tests": tests, "failures": sorted(set(" ".join(failures).split()))}
