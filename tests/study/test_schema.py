import json
import tomllib

import jsonschema
import pytest

from hpo.study import definition, file, schema
from hpo.training import config
from tests.support.study_files import CASES, FINETUNE

SCHEMA = schema.study_file_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

# What a JSON Schema cannot express, or only over several tables; see test_schema_agrees.py.
BEYOND_A_SCHEMA = {
    "fraction for a whole number",  # to JSON 3.0 is whole
    "fractions for a whole number's bounds",
    *(name for name in CASES if name.startswith("not a number")),  # JSON has none
    "deadline in words",  # a format, which validators may leave unchecked
    "low above high",
    "step that misses the end",
    "whole step that misses the end",
    "step too small to count",
    "combinations without end",
    "when on a value that does not occur",
    "when on another value than the fixed one",
    "when on a range",
    "when on itself",
    "whens in a circle",
    "whens in a circle through an option's use",
    "momentum searched where all is Adam",
    "step size searched under what a default leaves constant",
    "momentum in a point that is Adam by default",
    "point outside of what is searched",
    "point that falls back to what is not searched",
    "fixed and searched",
    "grid of ranges",
    "grid of nothing",
    "search without trials",
    "nothing at all",
    *(name for name in CASES if name.startswith(("dropout", "images"))),
    "weights that are no file",
    "weights below nobody's home",
}


def refused(text: str) -> bool:
    return not VALIDATOR.is_valid(tomllib.loads(text))


def readable(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def test_it_is_a_schema_that_fits_into_json():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_the_command_prints_it(workplace):
    assert workplace.here("schema").json() == SCHEMA


def test_every_option_is_in_it_with_its_default():
    built_in = SCHEMA["else"]["properties"]
    train = built_in["train"]["properties"]
    assert tuple(train) == config.OPTIONS
    defaults = {name: option["default"] for name, option in train.items() if "default" in option}
    without = {"limit": None, "dropout": None}  # TOML has no null
    assert config.Config().model_dump() == defaults | without
    for part in ("space", "points"):
        table = built_in[part].get("items", built_in[part])
        assert set(table["properties"]) - {"site", "attributes"} == set(config.SEARCHABLE)


def test_every_setting_of_a_search_is_in_it():
    search = SCHEMA["properties"]["search"]["properties"]
    assert search.keys() == definition.Search.model_fields.keys()
    for name, kind in (("sampler", definition.Sampler), ("pruner", definition.Pruner)):
        assert search[name]["anyOf"][1]["properties"].keys() == kind.model_fields.keys()


@pytest.mark.parametrize("name", file.shipped_studies())
def test_a_shipped_study_file_is_valid(name):
    VALIDATOR.validate(tomllib.loads(file.find_study_file(name).read_text()))


def test_the_contracts_example_is_valid():
    VALIDATOR.validate(tomllib.loads(FINETUNE))


def test_a_custom_objective_frees_the_names_of_options():
    own = '[train]\nobjective = "a.b:c"\nwidth = 3\n[space]\ndepth = [1, 2]\n[[points]]\ndepth = 1\n'
    assert not refused(own)
    assert refused(own.replace("objective", "objektive"))
    assert refused(own.replace("a.b:c", "a.b"))
    assert refused(own.replace("width = 3", "epochs = 0"))


@pytest.mark.parametrize("text", ["[search]\nsampler = 'tpe'\npruner = 'none'", "[space]\nlr = [1]", ""])
def test_short_forms_are_valid(text):
    assert not refused(text)


@pytest.mark.parametrize("wrong", [name for name, (text, _) in CASES.items() if readable(text)])
def test_what_the_checks_refuse_it_refuses_too_where_a_schema_can_tell(wrong):
    assert refused(CASES[wrong][0]) == (wrong not in BEYOND_A_SCHEMA)
