"""SQLite's own source tree and what is built of it: fetched from Debian, pristine, with one hook compiled in.

Everything is kept in target/sqlite-suite: `src`, `build` (the newest SQLite), `src-3.40.1`, `build-3.40.1` (the oldest one
that is widely used). apt has settings of its own there. Needs tcl8.6-dev, gcc, make, xz.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
HOME = ROOT / "target" / "sqlite-suite"

ENABLED = (
    "-DSQLITE_ENABLE_SNAPSHOT -DSQLITE_ENABLE_SESSION -DSQLITE_ENABLE_PREUPDATE_HOOK -DSQLITE_ENABLE_STAT4 "
    "-DSQLITE_ENABLE_UNLOCK_NOTIFY -DSQLITE_ENABLE_SETLK_TIMEOUT -DSQLITE_ENABLE_RTREE"
)
FLAGS = f"-DSQLITE_EXTRA_INIT=suite_init {ENABLED}"
# Programs that are linked each with the library and the hook: name, source files, options.
TOOLS = {
    "mptester": (["mptest/mptest.c"], []),
    "threadtest3": (["test/threadtest3.c", "src/test_multiplex.c"], ["-Isrc", "-Itest"]),
    "speedtest1": (["test/speedtest1.c"], []),
}
TOOL_FLAGS = "-O2 -DSQLITE_THREADSAFE=1 -DSQLITE_ENABLE_MATH_FUNCTIONS -DSQLITE_ENABLE_SNAPSHOT -DSQLITE_ENABLE_RTREE".split()

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
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout[-4000:]}\nfailed with status {done.returncode}")
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


class Source:
    """One version of SQLite: its tree and its build."""

    def __init__(self, suite, suffix):
        self.suite = suite
        self.tree = HOME / f"src{suffix}"
        self.build = HOME / f"build{suffix}"
        self.apt = HOME / f"apt{suffix}"

    def fetch(self):
        """Unpacks the pristine source; returns its version."""
        marker = self.tree / "VERSION"
        if not marker.exists():
            for folder in ("parts", "lists/partial", "cache/archives/partial"):
                (self.apt / folder).mkdir(parents=True, exist_ok=True)
            uri, keyring = mirror()
            (self.apt / "parts" / "source.sources").write_text(
                f"Types: deb-src\nURIs: {uri}\nSuites: {self.suite}\nComponents: main\nSigned-By: {keyring}\n"
            )
            (self.apt / "apt.conf").write_text(
                f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{self.apt}/parts";\n'
                f'Dir::State::lists "{self.apt}/lists";\nDir::Cache "{self.apt}/cache";\nAPT::Sandbox::User "root";\n'
            )
            environment = {**os.environ, "APT_CONFIG": str(self.apt / "apt.conf")}
            print(f"fetching SQLite's source package ({self.suite})", flush=True)
            run(["apt-get", "update"], env=environment)
            run(["apt-get", "source", "--download-only", "sqlite3"], env=environment, cwd=self.apt)
            tarball = next(self.apt.glob("sqlite3_*.orig.tar.xz"))
            shutil.rmtree(self.tree, ignore_errors=True)
            self.tree.mkdir()
            run(["tar", "xf", tarball, "-C", self.tree, "--strip-components=1"])
        return marker.read_text().strip()

    def fixture(self):
        """Builds testfixture with the hook; the pristine source is left as it is."""
        fixture = self.build / "testfixture"
        stamp = self.build / "stamp"
        want = hashlib.sha256((HOOK + FLAGS).encode()).hexdigest()
        if fixture.exists() and stamp.exists() and stamp.read_text() == want:
            return fixture
        print("building testfixture (a minute)", flush=True)
        shutil.rmtree(self.build, ignore_errors=True)
        self.build.mkdir(parents=True)
        hook = self.build / "hook.c"
        hook.write_text(HOOK)
        tcl = next(iter(sorted(pathlib.Path("/usr/lib").glob("*/tcl8.6/tclConfig.sh"))), None)
        if tcl is None:
            sys.exit("cannot find Tcl's headers: install tcl8.6-dev")
        # The older one has GNU autoconf's script, and another name for the options.
        older = (self.tree / "configure.ac").exists()
        configure = [self.tree / "configure", f"--with-tcl={tcl.parent}", *(["--disable-readline"] if older else [])]
        run(configure, cwd=self.build, env={**os.environ, "CFLAGS": "-O2"})
        options = f"{'OPTS' if older else 'OPTIONS'}={FLAGS}"
        run(["make", "testfixture", f"TESTFIXTURE_SRC1=sqlite3.c {hook}", options], cwd=self.build)
        stamp.write_text(want)
        return fixture

    def tool(self, name):
        """Links one of the programs with the library and the hook."""
        self.fixture()
        folder = self.build / "tools"
        program = folder / name
        if program.exists():
            return program
        folder.mkdir(exist_ok=True)
        flags = [*TOOL_FLAGS, f"-I{self.build}"]
        objects = {
            folder / "sqlite3.o": [self.build / "sqlite3.c", "-DSQLITE_EXTRA_INIT=suite_init"],
            folder / "hook.o": [self.build / "hook.c"],
        }
        for target, source in objects.items():
            if not target.exists():
                run(["gcc", *flags, "-c", *source, "-o", target])
        files, more = TOOLS[name]
        more = [f"-I{self.tree}/{option[2:]}" for option in more]
        run(["gcc", *flags, *more, *(self.tree / file for file in files), *objects, "-o", program, "-lpthread", "-ldl", "-lm"])
        return program


NEWEST = Source("sid", "")
OLDEST = Source("bookworm", "-3.40.1")
