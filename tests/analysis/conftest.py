"""Fixtures of the tests of analysis."""

import pytest

from hpo.analysis import recorded_curves
from hpo.analysis.surrogate import Surrogate
from tests.support.curve_file import write_curve_file


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory) -> Surrogate:
    path = tmp_path_factory.mktemp("curves") / "curves.csv"
    return Surrogate(recorded_curves.read_curves(write_curve_file(path)))
