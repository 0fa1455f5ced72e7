#!/usr/bin/env python3
"""SQLite's own test suite, once on the plain VFS and once through ours as the default VFS.

    python-tests/sqlite_suite.py [--fast] [file ...]

Every file must give the same failures and the same number of tests both ways (the number apart where it is
random), and must really have gone through our VFS: a counter inside the library proves it. Ours is registered
under the name `unix`, because some files test nothing under any other name, and wraps every database and WAL.

Fetches the Debian source package of SQLite (newest suite) into target/sqlite-suite, with apt settings of its
own, and builds `testfixture` there. Needs tcl8.6-dev, gcc, make, xz. Plain results are kept for the next run.
As root it runs the files as an unprivileged user, because the suite refuses root. 2 files at a time.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = ROOT / "target" / "sqlite-suite"
LIBRARY = ROOT / "libsqlitereplicate.so"
NOBODY = 65534
LIMIT_S = 240
TOGETHER = 2
# Its number of tests is the number of iterations that a random crash point allowed.
RANDOM_COUNT = {"crash"}

# The files that exercise a VFS, by what they test.
FAST = """
e_wal e_walauto e_walckpt e_walhook nockpt shmlock snapshot snapshot2 snapshot3 snapshot4 snapshot_up superlock wal
wal2 wal4 wal5 wal6 wal64k wal7 wal8 wal9 walbak walbig walckptnoop walcksum walfault2 walhook walmode walnoshm
waloverwrite walpersist walprotocol2 walrestart walro walro2 walrofault walshared
crash8 zerodamage
autovacuum_ioerr2 cffault dbpagefault diskfull ioerr3 ioerr4 mmapfault pagerfault3 rollbackfault sysfault
busy exclusive exclusive2 external_reader lock lock2 lock3 lock4 lock5 lock7 nolock pendingrace rowallock
shared shared2 shared3 shared4 shared6 shared7 shared8 shared9 sharedA sharedB sharedlock syscall thread1 thread2
unixexcl notify1 notify3
mmap1 mmap2 mmap3 mmapcorrupt mmapwarm
corrupt2 corrupt4 corrupt6 corrupt7 corrupt8 corrupt9 corruptA corruptB corruptD corruptE corruptF corruptG corruptH
corruptI corruptJ corruptK corruptL corruptM corruptN dbfuzz001
autovacuum autovacuum2 backup backup2 backup4 backup5 incrvacuum incrvacuum2 vacuum vacuum-into vacuum2
vacuum4 vacuum5
attach attach2 attach3 attach4 bigfile bigfile2 bigrow cacheflush cachespill chunksize close dataversion1 dbpage
dbstatus dbstatus2 delete_db e_blobclose e_blobwrite e_uri e_vacuum fallocate filectrl filefmt incrblob incrblob2
incrblob3 io journal1 journal2 journal3 jrnlmode jrnlmode2 jrnlmode3 loadext loadext2 manydb memdb1 memjournal
mjournal multiplex multiplex2 openv2 pager1 pager2 pager3 pager4 pagesize pcache2 pragma pragma2 pragma3 quota rdonly
readonly reservebytes resetdb rollback rollback2 savepoint savepoint5 savepoint7 securedel shortread1
shrink stat subjournal symlink sync sync2 tempdb tempdb2 temptable tkt3457 tkt35xx tkt-313723c356 tkt-5d863f876e
tkt-9d68c883 tkt-f3e5abed55 trans3 uri cksumvfs
""".split()

SLOW = """
wal3 walcrash walcrash2 walcrash4 walfault walprotocol walvfs walsetlk2 walsetlk3 walsetlk_recover walsetlk_snapshot
crash crash2 crash3 crash4 crash6 crash7 writecrash incrblob_err incrvacuum_ioerr ioerr ioerr2 misc7 busy2 thread001 thread002
trans2 notify2 mmap4 corrupt corruptC vacuum3 incrvacuum3 savepoint2 oserror avtrans temptable2 trans
""".split()

FLAGS = (
    "-DSQLITE_EXTRA_INIT=suite_init -DSQLITE_ENABLE_SNAPSHOT -DSQLITE_ENABLE_SESSION "
    "-DSQLITE_ENABLE_PREUPDATE_HOOK -DSQLITE_ENABLE_STAT4 -DSQLITE_ENABLE_UNLOCK_NOTIFY "
    "-DSQLITE_ENABLE_SETLK_TIMEOUT -DSQLITE_ENABLE_RTREE"
)

# SQLite calls this at the end of each sqlite3_initialize(), which has just made `unix` the default again: the
# suite shuts down and initialises many times.
HOOK = r"""
#include <stdio.h>
#include <stdlib.h>
#include "sqlite3.h"
int suite_init(const char *unused){
  static sqlite3_vfs *ours = 0;
  const char *library = getenv("SUITE_LIBRARY");
  if( library==0 || library[0]==0 ) return SQLITE_OK;
  if( ours==0 ){
    sqlite3 *db = 0;
    char *error = 0;
    sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE|SQLITE_OPEN_CREATE, 0);
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, (int*)0);
    if( sqlite3_load_extension(db, library, 0, &error) ){
      fprintf(stderr, "cannot load %s: %s\n", library, error ? error : "no reason given");
      abort();
    }
    sqlite3_close(db);
    ours = sqlite3_vfs_find(0);
  }
  return sqlite3_vfs_register(ours, 1);
}
"""


def run(command, **options):
    """Runs a build step; its output is shown only when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\nfailed with status {done.returncode}")
    return done.stdout


def mirror():
    """The Debian mirror and keyring this machine is set up with."""
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    if os.environ.get("DEBIAN_MIRROR"):
        return os.environ["DEBIAN_MIRROR"], keyring
    apt = pathlib.Path("/etc/apt")
    sources = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    text = "\n".join(path.read_text(errors="replace") for path in sources if path.is_file())
    found = re.search(r"^(?:URIs:|deb\s(?:\[[^]]*\]\s*)?)\s*(\S+/debian/?)(?:\s|$)", text, re.M)
    if not found:
        sys.exit("cannot find this machine's Debian mirror: set DEBIAN_MIRROR to its address")
    return found[1], keyring


def fetch():
    """Unpacks the pristine source of the newest SQLite in Debian to HOME/src; returns its version."""
    marker = HOME / "src" / "VERSION"
    if not marker.exists():
        apt = HOME / "apt"
        for folder in ("parts", "lists/partial", "cache/archives/partial"):
            (apt / folder).mkdir(parents=True, exist_ok=True)
        uri, keyring = mirror()
        (apt / "parts" / "source.sources").write_text(
            f"Types: deb-src\nURIs: {uri}\nSuites: sid\nComponents: main\nSigned-By: {keyring}\n"
        )
        (apt / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{apt}/parts";\n'
            f'Dir::State::lists "{apt}/lists";\nDir::Cache "{apt}/cache";\nAPT::Sandbox::User "root";\n'
        )
        environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
        print("fetching SQLite's source package", flush=True)
        run(["apt-get", "update"], env=environment)
        run(["apt-get", "source", "--download-only", "sqlite3"], env=environment, cwd=apt)
        tarball = next(apt.glob("sqlite3_*.orig.tar.xz"))
        shutil.rmtree(HOME / "src", ignore_errors=True)
        (HOME / "src").mkdir()
        run(["tar", "xf", tarball, "-C", HOME / "src", "--strip-components=1"])
    return marker.read_text().strip()


def build():
    """Builds testfixture with the hook; the pristine source is left as it is."""
    fixture = HOME / "build" / "testfixture"
    stamp = HOME / "build" / "stamp"
    want = hashlib.sha256((HOOK + FLAGS).encode()).hexdigest()
    if fixture.exists() and stamp.exists() and stamp.read_text() == want:
        return fixture
    print("building testfixture (a minute)", flush=True)
    shutil.rmtree(HOME / "build", ignore_errors=True)
    (HOME / "build").mkdir(parents=True)
    hook = HOME / "build" / "hook.c"
    hook.write_text(HOOK)
    tcl = next(iter(sorted(pathlib.Path("/usr/lib").glob("*/tcl8.6/tclConfig.sh"))), None)
    if tcl is None:
        sys.exit("cannot find Tcl's headers: install tcl8.6-dev")
    configure = [HOME / "src" / "configure", f"--with-tcl={tcl.parent}"]
    run(configure, cwd=HOME / "build", env={**os.environ, "CFLAGS": "-O2"})
    source = f"TESTFIXTURE_SRC1=sqlite3.c {hook}"
    run(["make", "testfixture", source, f"OPTIONS={FLAGS}"], cwd=HOME / "build")
    stamp.write_text(want)
    return fixture


def run_file(fixture, name, ours):
    """Runs one test file in an empty folder; returns what it counted."""
    folder = HOME / "work" / f"{name}-{'ours' if ours else 'plain'}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SQLITEREPLICATE_")}
    environment["HOME"] = str(folder)
    stats = folder / "stats"
    if ours:
        environment |= {
            "SUITE_LIBRARY": str(LIBRARY),
            "SQLITEREPLICATE_DEFAULT_VFS": "1",
            "SQLITEREPLICATE_TEST_VFS_NAME": "unix",
            "SQLITEREPLICATE_TEST_WRAP": "1",
            "SQLITEREPLICATE_TEST_STATS": str(stats),
        }
    command = [str(fixture), str(HOME / "src" / "test" / f"{name}.test")]
    if os.getuid() == 0:
        os.chown(folder, NOBODY, NOBODY)
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=LIMIT_S, capture_output=True, text=True, errors="replace"
        )
        output, status = done.stdout + done.stderr, done.returncode
    except subprocess.TimeoutExpired as expired:
        output, status = (expired.stdout or b"").decode(errors="replace"), "timeout"
    result = parse(output, status)
    result["seconds"] = round(time.monotonic() - began, 2)
    result["calls"] = count_calls(stats) if ours else {}
    (HOME / "logs").mkdir(exist_ok=True)
    (HOME / "logs" / f"{folder.name}.log").write_text(output)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def parse(output, status):
    summary = re.findall(r"(\d+) errors out of (\d+) tests", output)
    failures = re.findall(r"^!Failures on these tests: (.*)$", output, re.M)
    if not summary:
        return {"errors": -1, "tests": 0, "failures": [f"no summary, status {status}"]}
    errors, tests = map(int, summary[-1])
    return {"errors": errors, "tests": tests, "failures": sorted(set(" ".join(failures).split()))}


def count_calls(stats):
    calls = {}
    for line in stats.read_text().splitlines() if stats.exists() else []:
        method, count = line.split()
        calls[method] = calls.get(method, 0) + int(count)
    return calls


def complaint(name, plain, ours):
    """What differs, or nothing."""
    if ours["failures"] != plain["failures"]:
        return f"failures {' '.join(ours['failures']) or 'none'}, plain {' '.join(plain['failures']) or 'none'}"
    if name not in RANDOM_COUNT and ours["tests"] != plain["tests"]:
        return f"{ours['tests']} tests, plain {plain['tests']}"
    if not ours["calls"].get("xOpen"):
        return "did not go through our VFS"
    return ""


def check_file(fixture, name, baseline):
    """Runs a file both ways; a difference must show again, both ways afresh, to count: some files time locks."""
    plain = baseline.get(name) or run_file(fixture, name, ours=False)
    ours = run_file(fixture, name, ours=True)
    again = bool(complaint(name, plain, ours))
    if again:
        plain, ours = run_file(fixture, name, ours=False), run_file(fixture, name, ours=True)
    return name, plain, ours, again


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="the fast files only")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    names = options.files or (FAST if options.fast else FAST + SLOW)

    HOME.mkdir(parents=True, exist_ok=True)
    version = fetch()
    fixture = build()
    kept = HOME / f"plain-{version}.json"
    baseline = json.loads(kept.read_text()) if kept.exists() else {}
    print(f"SQLite {version}: {len(names)} files through {LIBRARY.name}", flush=True)

    results, began = {}, time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(TOGETHER) as pool:
        # Long files first, so that the end is not one of them alone.
        order = sorted(names, key=lambda name: -baseline.get(name, {}).get("seconds", 5 if name in SLOW else 0))
        for name, plain, ours, again in pool.map(lambda name: check_file(fixture, name, baseline), order):
            results[name] = (plain, ours, again)
            baseline[name] = plain
    kept.write_text(json.dumps(baseline))
    return report(names, results, time.monotonic() - began)


def report(names, results, seconds):
    failed, calls = 0, {}
    print(f"{'file':<22}{'tests':>8}{'plain':>8}{'errors':>8}{'seconds':>9}{'xOpen':>8}{'xWrite':>9}")
    for name in names:
        plain, ours, again = results[name]
        wrong = complaint(name, plain, ours)
        failed += bool(wrong)
        note = f"  FAILED: {wrong}" if wrong else "  (second run)" if again else ""
        opens, writes = ours["calls"].get("xOpen", 0), ours["calls"].get("xWrite", 0)
        counts = f"{ours['tests']:>8}{plain['tests']:>8}{ours['errors']:>8}{ours['seconds']:>9.1f}"
        print(f"{name:<22}{counts}{opens:>8}{writes:>9}{note}")
        for method, count in ours["calls"].items():
            calls[method] = calls.get(method, 0) + count
    print("calls:", " ".join(f"{method} {count}" for method, count in sorted(calls.items())))
    tests = sum(ours["tests"] for _, ours, _ in results.values())
    print(f"{tests} tests in {seconds:.0f} s. Logs: {HOME.relative_to(ROOT)}/logs")
    print(f"{len(names) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
