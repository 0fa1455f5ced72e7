"""Fixtures: the extension, the peers, folders, writers."""

import pytest

import harness


@pytest.fixture(scope="session")
def extension():
    """Path of the extension."""
    if not harness.EXTENSION.exists():
        pytest.fail(f"{harness.EXTENSION} does not exist: run make")
    return harness.EXTENSION


@pytest.fixture(scope="session")
def litestream():
    """Path of the real litestream program."""
    assert harness.LITESTREAM.exists(), "run make venv"
    return harness.LITESTREAM


@pytest.fixture
def replica(tmp_path):
    """A replica folder that does not exist yet."""
    return tmp_path / "replica"


@pytest.fixture
def process():
    """Starts `harness.Process`es that end with the test."""
    started = []

    def start(*arguments, **options):
        child = harness.Process(*arguments, **options)
        started.append(child)
        return child

    yield start
    for child in started:
        child.__exit__()
