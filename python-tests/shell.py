"""A process with one connection, told what to do line by line."""

import json

import harness

# argv: extension, URI. Runs each line of its input as SQL and prints the rows, or the error as a string.
SCRIPT = """
import json, sqlite3, sys
extension, uri = sys.argv[1:]
loader = sqlite3.connect(":memory:")
loader.enable_load_extension(True)
loader.load_extension(extension)
c = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10)
print("ready")
for line in sys.stdin:
    try:
        print(json.dumps(c.execute(line).fetchall()))
    except sqlite3.Error as error:
        print(json.dumps(str(error)))
"""


class Shell:
    """The database of `uri`, open; `process` is the fixture, `before` are words in front of the command."""

    def __init__(self, process, extension, uri, *before):
        self.process = process([*before, harness.PYTHON, "-u", "-c", SCRIPT, extension, uri])
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
