"""Mutated study files, ``--set`` texts and folders end in a definition, or in a message of one line."""

import pytest

from tests import mutated_input


@pytest.mark.parametrize(
    ("kind", "count"),
    [("study file", 700), ("--set", 500), ("schema", 600), ("folder", 200), ("list", 200)],
)
def test_mutated_input_is_taken_or_refused_in_one_line(kind, count):
    broken, ran = mutated_input.run_cases({kind: count}, seed=0)
    assert not broken, "\n".join(["seed/kind/case: what broke", *broken])
    assert ran == count
