"""The pages on JSON and on attributes name what the program prints and stores, and nothing else."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from hpo.study.definition import TRIAL_ATTRIBUTES
from tests.support.curve_file import write_curve_file
from tests.support.workplace import ROOT

REFERENCE = ROOT / "docs" / "reference"
SMALL = (
    "train.limit=60",
    "train.image_size=16",
    "train.epochs=1",
    "search.trials=2",
    "search.pruner=none",
    "search.chance_epochs=0",
)
# Objects whose keys are names of the user's: splits, classes, parameters, metrics, seeds, formats.
OPEN = {
    "params",
    "setting",
    "user_attrs",
    "intermediate_values",
    "hardware",
    "importances",
    "values",
    "accuracies",
}
OPEN |= {"trials", "images", "formats", "modes", "budgets", "early_ends", "best"}
# What the page names and a study of this kind does not have.
ABSENT = {
    "status": {"reason"},
    "trials": {"values"},
    "best": {"directions", "values", "on_front", "knee", "replicates"},
    "predict": {"label", "error"},
}


def written(section: str) -> tuple[set[str], set[str]]:
    """Return the fields of a section's table, and all names that the section marks as code."""
    text = (REFERENCE / "json.md").read_text()
    text = re.split(rf"^## (?:\w+, )?{section}$", text, flags=re.MULTILINE)[1].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}, set(
        re.findall(r"`(\w+)`", text)
    )


def inner_keys(document: Any) -> Iterator[str]:
    if isinstance(document, list):
        for each in document:
            yield from inner_keys(each)
    elif isinstance(document, dict):
        for key, each in document.items():
            yield key
            if key not in OPEN:
                yield from inner_keys(each)


@pytest.fixture
def documents(workplace) -> dict[str, Any]:
    """Return what each verb with ``--json`` prints about a small study."""
    sets = [word for each in SMALL for word in ("--set", each)]
    workplace.here("create", "quickstart", *sets)
    workplace.here("worker", "quickstart")
    workplace.here("export", "quickstart", "--to", "winner")
    Image.new("L", (8, 8)).save(workplace.path / "digit.png")
    write_curve_file(workplace.path / "curves.csv")
    commands = {
        "status": ["status", "quickstart"],
        "trials": ["trials", "quickstart"],
        "best": ["best", "quickstart"],
        "importance": ["importance", "quickstart"],
        "plan": ["plan", "quickstart", *sets, "--devices", "cpu:1"],
        "simulate": ["simulate", "--curves", "curves.csv", "--repeats", "2"],
        "data": ["data", "quickstart"],
        "predict": ["predict", "winner", "digit.png"],
    }
    return {verb: workplace.here(*words, "--json").json() for verb, words in commands.items()}


def test_the_reference_names_every_field_of_json_and_every_attribute(documents):
    for verb, document in documents.items():
        table, named = written(verb)
        outer = document[0] if isinstance(document, list) else document
        assert table == set(outer) | ABSENT.get(verb, set()), verb
        assert set(inner_keys(document)) <= named, verb
    page = (REFERENCE / "attributes.md").read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    for trial in documents["trials"]:
        assert trial["user_attrs"].keys() <= listed
    assert set(TRIAL_ATTRIBUTES) <= listed
