import json
import tomllib

import jsonschema
import pytest

from hpo.study import aliases, file, schema, search_options
from hpo.training import config
from tests.support.study_files import FINETUNE
from tests.support.wrong_controls import WRONG_CONTROLS
from tests.support.wrong_options import WRONG_OPTIONS
from tests.support.wrong_searches import WRONG_SEARCHES

CASES = WRONG_OPTIONS | WRONG_SEARCHES | WRONG_CONTROLS
SCHEMA = schema.study_file_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

# Rules that a JSON Schema cannot express, or only across tables; see test_schema_agrees.py.
BEYOND_A_SCHEMA = {
    "percentage for a target",  # what it can be depends on the metric
    "unknown objective",  # a custom objective may name its own
    "one objective",
    "objective twice",
    "objectives without a metric",
    "metric that is not the first of the objectives",
    "options of a single objective",
    "fraction for a whole number",  # in JSON, 3.0 is a whole number
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
    "circular conditions",
    "circular conditions through an option's use",
    "momentum searched where all is Adam",
    "step size searched under what a default leaves constant",
    "momentum in a point that is Adam by default",
    *(name for name in CASES if name.startswith(("mixup searched", "images mixed"))),
    "point outside of what is searched",
    "point that falls back to what is not searched",
    "fixed and searched",
    "grid of ranges",
    "grid of nothing",
    "search without trials",
    "nothing at all",
    *(name for name in CASES if name.startswith(("dropout", "images"))),
    *(WRONG_CONTROLS.keys() - {"lowest rate searched for what is constant"}),
    *(name for name in CASES if name.startswith("weights ")),
}


def refused(text: str) -> bool:
    return not VALIDATOR.is_valid(tomllib.loads(text))


def readable(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def test_the_schema_is_valid_and_can_be_written_as_json():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_the_schema_command_prints_the_schema(workplace):
    assert workplace.here("schema").json() == SCHEMA


def test_the_schema_has_every_option_with_its_default():
    built_in = SCHEMA["else"]["properties"]
    train = built_in["train"]["properties"]
    assert tuple(train) == (*config.OPTIONS, *aliases.TRAIN_ALIASES)
    defaults = {name: option["default"] for name, option in train.items() if "default" in option}
    # TOML has no null.
    without = dict.fromkeys(("limit", "dropout", "clip_grad_norm", "ema_decay", "early_stopping"))
    assert config.Config().model_dump() == defaults | without
    for part in ("space", "points"):
        table = built_in[part].get("items", built_in[part])
        own = set(table["properties"]) - {"site", "attributes"}
        assert own == {*config.SEARCHABLE, "lr_scheduler", "imgsz", "img_size", "pretrained"}


def test_the_schema_has_every_setting_of_a_search():
    search = SCHEMA["properties"]["search"]["properties"]
    assert search.keys() == {*search_options.Search.model_fields, *aliases.SEARCH_ALIASES}
    for name, kind in (("sampler", search_options.Sampler), ("pruner", search_options.Pruner)):
        assert search[name]["anyOf"][1]["properties"].keys() == kind.model_fields.keys()


@pytest.mark.parametrize("name", file.shipped_studies())
def test_a_shipped_study_file_is_valid(name):
    VALIDATOR.validate(tomllib.loads(file.find_study_file(name).read_text()))


def test_the_specified_example_is_valid():
    VALIDATOR.validate(tomllib.loads(FINETUNE))


def test_models_of_timm_are_valid_by_the_form_of_their_names():
    for name in ("timm/resnet18", "timm/resnet18.a1_in1k"):
        assert not refused(f"name = 's'\n[train]\nmodel = '{name}'\n[space]\nlr = [0.1, 0.2]")
    for name in ("timm/", "timm/a/b", "timm/a.b.c", "resnet18.a1_in1k"):
        assert refused(f"name = 's'\n[train]\nmodel = '{name}'\n[space]\nlr = [0.1, 0.2]")


def test_a_custom_objective_allows_other_names_of_options():
    text = '[train]\nobjective = "a.b:c"\nwidth = 3\n[space]\ndepth = [1, 2]\n[[points]]\ndepth = 1\n'
    assert not refused(text)
    assert refused(text.replace("objective", "objektive"))
    assert refused(text.replace("a.b:c", "a.b"))
    assert refused(text.replace("width = 3", "epochs = 0"))


@pytest.mark.parametrize("text", ["[search]\nsampler = 'tpe'\npruner = 'none'", "[space]\nlr = [1]", ""])
def test_short_forms_are_valid(text):
    assert not refused(text)


@pytest.mark.parametrize("wrong", [name for name, (text, _) in CASES.items() if readable(text)])
def test_the_schema_refuses_what_the_checks_refuse_unless_it_cannot_express_the_rule(wrong):
    assert refused(CASES[wrong][0]) == (wrong not in BEYOND_A_SCHEMA)
