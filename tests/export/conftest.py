"""Fixtures of the tests of exported models."""

from pathlib import Path

import pytest

from tests.support.exported import run_studies
from tests.support.workplace import Workplace, workplace_in


@pytest.fixture(scope="module")
def finished(once) -> Workplace:
    """Return a workplace with both studies finished; tests only read it."""
    return workplace_in(once("exported", run_studies))


@pytest.fixture(scope="module")
def winner(finished) -> Path:
    """Return the folder of the digits' best trial, exported by the command."""
    return finished.path / "winner"


@pytest.fixture(scope="module")
def labels(finished) -> dict[str, str]:
    """Return the class of each image that accuracy was measured on, by the path of its file."""
    files = sorted((finished.path / "selection").iterdir())
    return {str(file): file.stem.partition(" ")[2] for file in files}
