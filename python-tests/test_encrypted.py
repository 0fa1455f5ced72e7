"""A database that SQLCipher encrypts: page 1 tells nothing, and its replica restores to the same encrypted bytes."""

import pytest

import databases
import harness
from shell import Shell

JOURNALS = pytest.mark.parametrize("journal", ["wal", "delete", "truncate"])
SYNC = "SELECT replica_sync(20)"
ROWS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i+1 FROM n WHERE i<30) INSERT INTO t(x) SELECT randomblob(900) FROM n"


@pytest.fixture
def database(tmp_path):
    return tmp_path / "app.db"


class Cipher:
    """A connection with the key."""

    def __init__(self, process, extension, uri):
        self.shell = Shell(process, extension, uri, module="sqlcipher3.dbapi2")
        assert self.ask("PRAGMA key='secret'") == "ok"

    def ask(self, sql):
        answer = self.shell.ask(sql)
        return answer[0][0] if isinstance(answer, list) and answer else answer

    def close(self):
        self.shell.finish()


@pytest.fixture
def cipher(process, extension):
    return lambda database, replica=None: Cipher(
        process, extension, databases.uri(database, replica) if replica else f"file:{database}"
    )


def check(cipher, database, replica, rows):
    """The replica restores to the file, and the key opens what is restored."""
    copy = replica.with_name("copy.db")
    copy.unlink(missing_ok=True)
    databases.restore(replica, copy)
    assert copy.read_bytes() == database.read_bytes() and not copy.read_bytes().startswith(b"SQLite format 3")
    c = cipher(copy)
    assert c.ask("PRAGMA integrity_check") == "ok"
    assert c.ask("SELECT count(*) FROM t") == rows
    c.close()


@JOURNALS
@pytest.mark.parametrize("page_size", [4096, 1024])
def test_encrypted_database_is_replicated(cipher, database, replica, journal, page_size):
    c = cipher(database, replica)
    c.ask(f"PRAGMA cipher_page_size={page_size}")
    assert c.ask(f"PRAGMA journal_mode={journal}") == journal
    c.ask("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    txid = c.ask(SYNC)
    for _ in range(3):
        c.ask(ROWS)
        assert c.ask(SYNC) == txid + 1
        txid += 1
    c.close()
    sizes = {int.from_bytes(file.read_bytes()[8:12], "big") for file in databases.files(replica)}
    assert sizes == {page_size}, "its own pages"
    if page_size == 4096:
        check(cipher, database, replica, 90)


@JOURNALS
def test_encrypted_database_goes_on_after_a_kill_and_a_foreign_commit(cipher, database, replica, journal):
    c = cipher(database, replica)
    c.ask(f"PRAGMA journal_mode={journal}")
    c.ask("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    c.ask(ROWS)
    txid = c.ask(SYNC)
    c.shell.process.kill()
    c = cipher(database, replica)
    assert c.ask(SYNC) == txid and c.ask("SELECT count(*) FROM t") == 30
    other = cipher(database)
    for number in range(1, 4):
        other.ask(f"UPDATE t SET x = 'changed {number}' WHERE id = 7" if number % 2 else ROWS)
        assert c.ask(SYNC) == txid + number
    other.close()
    c.ask("VACUUM")
    c.ask(SYNC)
    c.close()
    check(cipher, database, replica, 60)


@JOURNALS
def test_page_size_that_nothing_tells_is_said_until_a_commit_tells_it(cipher, database, replica, journal):
    """Made without the extension, and not written since it was opened."""
    other = cipher(database)
    other.ask(f"PRAGMA journal_mode={journal}")
    other.ask("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
    other.ask(ROWS)
    other.close()
    c = cipher(database, replica)
    if journal != "wal":
        answer = c.ask("SELECT replica_sync(0.3)")
        assert "is not that of a plain SQLite database" in answer and "page size is not known" in answer
        assert c.ask("SELECT last_error FROM replica_status") in answer
        assert databases.files(replica) == []
    c.ask(ROWS)
    assert c.ask(SYNC) == 1
    c.close()
    check(cipher, database, replica, 60)
