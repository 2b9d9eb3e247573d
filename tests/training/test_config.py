"""The settings of a custom objective: every option is an attribute and an item, whatever its name."""

import copy
import pickle
from pathlib import Path

import pydantic
import pytest

from hpo.training.config import settings_of
from hpo.training.custom_config import CustomConfig, TrialPlace, at_place

CHECKED = ("objective", "epochs", "seed")
# Every name that a study file may use for an option, and that Python, pydantic or hpo use as well.
TAKEN = sorted(
    name
    for name in {*dir(pydantic.BaseModel), *dir(CustomConfig), "items", "keys", "values", "get"}
    if not name.startswith("_") and name not in CHECKED
)


def placed(**options: object) -> CustomConfig:
    config = CustomConfig.model_validate({"objective": "own:f", **options})
    return at_place(config, TrialPlace(device="cpu", trial=7, folder=Path("here")))


def test_the_names_that_pydantic_takes_are_tested():
    assert {"copy", "json", "dict", "schema", "validate", "model_post_init", "trial", "keys"} <= set(TAKEN)


@pytest.mark.parametrize("names", [TAKEN, *([name] for name in TAKEN)], ids=["all", *TAKEN])
def test_an_option_of_any_name_is_an_attribute_and_an_item(names):
    options = {name: f"the option {name}" for name in names}
    config = placed(**options)
    for same in (config, copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        assert {name: same[name] for name in names} == options
        assert {name: getattr(same, name) for name in names} == options
        assert settings_of(same) == {"objective": "own:f", "epochs": 20, "seed": 0, **options}


@pytest.mark.parametrize("name", ["copy", "json", "dict", "schema", "validate", "widht"])
def test_an_option_that_the_trial_lacks_is_no_method_of_pydantic(name):
    config = placed(width=64)
    with pytest.raises(AttributeError, match=f"the trial has no option '{name}'; it has .*, width"):
        getattr(config, name)
    assert getattr(config, name, None) is None
    with pytest.raises(KeyError, match=name):
        config[name]


def test_an_option_hides_what_a_config_says_about_the_trial():
    config = placed(folder="mine")
    assert (config.device, config.trial, config.folder, config["folder"]) == ("cpu", 7, "mine", "mine")
    with pytest.raises(AttributeError, match="only while a trial runs"):
        CustomConfig(objective="own:f").device  # noqa: B018
