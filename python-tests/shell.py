"""A process with one connection, told what to do line by line."""

import json

import harness

# argv: module, extension, URI. Runs each line of its input as SQL and prints the rows, or the error as a string.
SCRIPT = """
import importlib, json, sys
module, extension, uri = sys.argv[1:]
sqlite = importlib.import_module(module)
loader = sqlite.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
c = sqlite.connect(uri, uri=True, isolation_level=None, timeout=10)
print("ready")
for line in sys.stdin:
    try:
        print(json.dumps(c.execute(line).fetchall()))
    except sqlite.Error as error:
        print(json.dumps(str(error)))
c.close()
"""


class Shell:
    """The database of `uri`, open; `process` is the fixture, `before` are words in front of the command, `module` is
    Python's name of the SQLite."""

    def __init__(self, process, extension, uri, *before, module="sqlite3", env=None):
        self.process = process([*before, harness.PYTHON, "-u", "-c", SCRIPT, module, extension, uri], env=env)
        self.process.until("ready")

    def ask(self, sql):
        """The rows; the error as a string."""
        self.process.tell(sql)
        return json.loads(self.process.line())

    def sync(self, *timeout):
        """The txid that is acknowledged; the error as a string."""
        answer = self.ask(f"SELECT replica_sync({', '.join(map(str, timeout))})")
        return answer if isinstance(answer, str) else answer[0][0]

    def send_signal(self, number):
        self.process.child.send_signal(number)

    def finish(self):
        self.process.finish()
