"""A program without the extension writes a database whose writers use leases: nothing of that is sent without the lease."""

import json
import pathlib
import sqlite3

import harness
import pytest
from nodes import rows

STORES = pytest.mark.parametrize("replica", ["folder", "moto"], indirect=True)


def write_plainly(nodes, name, *values):
    """A commit of the sqlite3 module alone, to a database that nobody has open."""
    connection = sqlite3.connect(nodes.folder / name / "app.db")
    connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
    connection.commit()
    connection.close()


def standby_with_a_change(nodes, **parameters):
    """Node b, whose file somebody changed while it was closed."""
    b = nodes.shell("b", **parameters)
    assert rows(b) == ["a"]
    b.finish()
    write_plainly(nodes, "b", "stray")
    return nodes.shell("b", **parameters)


@STORES
def test_stray_change_of_a_standby_does_not_fence_the_holder(nodes):
    a = nodes.first()
    b = standby_with_a_change(nodes)
    assert rows(b) == ["a", "stray"]
    assert "were made without the lease" in b.sync(1)
    ((error,),) = b.ask("SELECT last_error FROM replica_status")
    assert "SELECT replica_lease_acquire() asks for it, and sends them" in error
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    assert isinstance(a.sync(), int)
    assert a.ask("SELECT state FROM replica_status") == [["Live"]]
    a.finish()
    # The history went on without it: it is kept, and does not become part of that.
    assert "another writer" in b.ask("SELECT replica_lease_acquire()")
    assert b.ask("SELECT state FROM replica_status") == [["Fenced"]]
    ((rejoined,),) = b.ask("SELECT replica_rejoin()")
    assert pathlib.Path(json.loads(rejoined)["saved"]).is_dir()
    assert rows(b) == ["a", "a2"]
    b.finish()
    assert nodes.restored() == [("a",), ("a2",)]


@STORES
def test_stray_change_is_sent_with_the_lease_where_nobody_went_on(nodes):
    a = nodes.first()
    a.finish()
    b = standby_with_a_change(nodes)
    assert "were made without the lease" in b.sync(1)
    assert nodes.restored() == [("a",)]
    assert b.ask("SELECT replica_lease_acquire()") == [[2]]
    assert isinstance(b.sync(), int)
    assert b.ask("SELECT state FROM replica_status") == [["Live"]]
    assert b.ask("INSERT INTO t VALUES ('b')") == []
    b.finish()
    assert nodes.restored() == [("a",), ("stray",), ("b",)]


@STORES
def test_auto_takes_the_lease_for_a_stray_change_once_it_is_free(nodes):
    a = nodes.first(replica_lease="auto")
    b = standby_with_a_change(nodes, replica_lease="auto")
    assert "as soon as the lease is to be had" in b.sync(1)
    assert a.ask("SELECT state FROM replica_status") == [["Live"]]
    assert nodes.restored() == [("a",)]
    a.finish()
    harness.wait_for(lambda: nodes.restored() == [("a",), ("stray",)], "the change is sent")
    assert isinstance(b.sync(), int)
    assert b.ask("SELECT epoch, held_by_me FROM replica_lease") == [[2, 1]]
    b.finish()


def test_only_the_primary_sends_a_stray_change(nodes):
    a = nodes.first(replica_lease="static", replica_lease_primary="node-a", replica_lease_owner="node-a")
    settings = {"replica_lease": "static", "replica_lease_primary": "node-a"}
    b = standby_with_a_change(nodes, replica_lease_owner="node-b", **settings)
    assert "only the primary sends changes" in b.sync(1)
    b.finish()
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    assert isinstance(a.sync(), int)
    a.finish()
    assert nodes.restored() == [("a",), ("a2",)]


@STORES
def test_database_that_is_as_it_was_needs_no_lease_to_be_compared(nodes):
    a = nodes.first()
    b = nodes.shell("b")
    assert a.ask("INSERT INTO t VALUES ('a2')") == []
    assert isinstance(a.sync(), int)
    b.ask("SELECT replica_rollforward()")
    assert rows(b) == ["a", "a2"]
    assert isinstance(b.sync(), int), "every page is compared, and none differs"
    assert b.ask("SELECT state FROM replica_status") == [["Live"]]
    b.finish()
    assert a.ask("INSERT INTO t VALUES ('a3')") == []
    a.finish()
    assert nodes.restored() == [("a",), ("a2",), ("a3",)]
