"""Finding the trial that a setting given by hand has already."""

import optuna
import pytest

from hpo.store import status, studies, untried_settings
from hpo.study import file

STUDY = """
name = "small"
[train]
dataset = "digits"
[space]
lr = [0.01, 0.1]
batch_size = [8, 16]
optimizer = ["sgd", "adam"]
[search]
trials = 1
sampler = "random"
[[points]]
lr = 0.01
batch_size = 8
"""


@pytest.fixture
def number_of(url):
    """Return a function that returns the number of the trial with a setting; None if no trial has it."""
    definition = file.load_study_text(STUDY, "small.toml")
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, definition, STUDY)
    humidity = {"humidity": optuna.distributions.FloatDistribution(0.0, 1.0)}
    foreign = optuna.trial.create_trial(value=0.5, params={"humidity": 0.5}, distributions=humidity)
    optuna.load_study(study_name="small", storage=url).add_trial(foreign)

    def find(*texts):
        point = file.point_from_texts(definition, texts)
        found = untried_settings.trial_of_setting(definition, status.read_trials(storage, "small"), point)
        return found and found.number

    return find


def test_a_setting_is_the_same_whether_it_names_a_default_or_leaves_it_out(number_of):
    assert number_of("lr=0.01", "batch_size=8") == 0
    assert number_of("batch_size=8", "lr=1e-2", "optimizer=sgd", "seed=0") == 0


@pytest.mark.parametrize("other", ["lr=0.1", "seed=1", "epochs=3", "optimizer=adam"])
def test_another_value_seed_or_number_of_epochs_is_another_setting(number_of, other):
    rest = [text for text in ("lr=0.01", "batch_size=8") if not other.startswith(text[:3])]
    assert number_of(other, *rest) is None
