"""The fingerprint of a custom objective: edits change it, other processes and other lines do not."""

import functools
import os
import subprocess
import sys

import pytest

from hpo.training.objective_code import fingerprint

OWN = """
def climb(config, state):
    if config.kind in {"a", "b", "c", "d"}:
        yield from ((config.speed * epoch, None) for epoch in range(3))
"""


def fingerprint_of(text: str) -> str | None:
    names: dict[str, object] = {}
    exec(text, names)
    return fingerprint(names["climb"])


@pytest.mark.parametrize(
    ("old", "new"),
    [("range(3)", "range(4)"), ("config.speed *", "config.speed +"), ("speed", "rate"), ('"d"', '"e"')],
)
def test_an_edit_changes_it(old, new):
    assert fingerprint_of(OWN.replace(old, new)) != fingerprint_of(OWN)


def test_lines_above_and_comments_do_not_change_it():
    assert fingerprint_of(
        "import os\n" + OWN.replace("\n    if", "  # a comment\n\n    if")
    ) == fingerprint_of(OWN)


@pytest.mark.processes
def test_another_process_finds_the_same():
    program = f"from hpo.training.objective_code import fingerprint\n{OWN}\nprint(fingerprint(climb))"
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == fingerprint_of(OWN)


def test_the_code_of_another_callable_is_not_known():
    assert fingerprint(functools.partial(fingerprint_of, OWN)) is None
