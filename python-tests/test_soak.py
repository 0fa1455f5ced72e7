"""The soak (soak.py) for a third of a minute; `make soak MINUTES=` is the long one."""

import os
import random

import soak


def test_replica_equals_the_database_while_processes_are_killed_and_the_keeper_does_not_grow(tmp_path):
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1 << 31))
    print("seed", seed)
    figures = soak.soak(1 / 4, seed, tmp_path)
    print(figures)
    assert figures["commits"] > 0 and figures["kills"] > 0 and figures["closes"] > 0
