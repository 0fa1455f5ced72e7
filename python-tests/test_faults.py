"""Calls that fail, at a small setting (`make faults` for all of them; docs/power-loss.md)."""

import faults


def test_calls_that_fail_harm_no_commit_and_the_replica_catches_up():
    assert faults.main(["--small"]) == 0
