"""What a record tells of a trial: each number, and where it comes from."""

from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from hpo.analysis import records
from hpo.analysis.records import TrialRecord
from hpo.study.definition import Definition
from hpo.training.config import Config

DIGITS = Definition(name="study", train=Config(dataset="digits", selection="test").model_dump())
FOLDER = Definition(name="study", train=Config(dataset="folder:/images").model_dump())
CUSTOM = Definition(name="study", train={"objective": "own:climb", "epochs": 3, "seed": 0})


def record(definition: Definition, *curve: float, **attributes: Any) -> TrialRecord:
    trial = create_trial(
        state=TrialState.COMPLETE,
        value=max(curve),
        intermediate_values=dict(enumerate(curve, 1)),
        user_attrs=attributes,
    )
    return records.trial_records(definition, [trial])[0]


@pytest.mark.parametrize(
    ("definition", "attributes", "images"),
    [
        (FOLDER, {"images": 1000}, 1000),
        (FOLDER, {}, None),
        (DIGITS, {"images": 50}, 50),
        (DIGITS, {}, 180),
        (CUSTOM, {}, None),
    ],
    ids=["stored", "folder-unknown", "digits-stored", "digits-known", "custom"],
)
def test_the_number_of_images_is_stored_or_known_and_never_guessed(definition, attributes, images):
    found = record(definition, 0.85, 0.8, 0.9, **attributes)  # of 20 images, or of any multiple of 20
    assert found.images == images
    assert records.count_images([found]) == images


def test_the_number_of_images_of_a_study_is_the_least_of_its_trials():
    assert records.count_images([record(FOLDER, 0.5, images=count) for count in (120_000, 40)]) == 40


def test_the_baseline_is_that_of_the_trial():
    assert record(DIGITS, 0.5, baseline=0.1).baseline == 0.1
    assert record(DIGITS, 0.5, baseline=None).baseline is None
