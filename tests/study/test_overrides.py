"""Properties of ``--set KEY=VALUE`` texts."""

import ast
import contextlib
import copy
import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.errors import DefinitionError
from hpo.study import file, overrides
from hpo.training import config
from tests.support.study_files import FINETUNE

DOCUMENT = tomllib.loads(FINETUNE)
PLAIN_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=20)
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    PLAIN_TEXT,
)
OPTIONS = st.sampled_from(config.OPTIONS)
KEYS = st.one_of(
    st.builds("{}.{}".format, st.sampled_from(("train", "space", "search", "points")), PLAIN_TEXT),
    st.builds("{}.{}".format, st.sampled_from(("train", "space")), OPTIONS),
    st.builds("search.{}".format, st.sampled_from(("trials", "sampler", "sampler.name", "pruner.seed"))),
    PLAIN_TEXT,
)
TEXTS = st.builds("{}={}".format, KEYS, st.one_of(PLAIN_TEXT, st.builds(json.dumps, SCALARS)))


def applied(*texts: str) -> dict:
    document = copy.deepcopy(DOCUMENT)
    for text in texts:
        overrides.apply_set(document, text)
    return document


@settings(deadline=None)
@given(SCALARS)
def test_a_value_written_as_toml_is_parsed_unchanged(value):
    found = overrides.parse_value(json.dumps(value, ensure_ascii=False))
    assert (type(found), found) == (type(value), value)


@settings(deadline=None)
@given(PLAIN_TEXT)
def test_a_text_is_parsed_as_toml_or_as_python_or_kept_as_a_string(text):
    found = overrides.parse_value(text)
    try:
        assert repr(found) == repr(tomllib.loads(f"x = {text}")["x"])
    except tomllib.TOMLDecodeError:
        assert found == text.strip() if isinstance(found, str) else found == ast.literal_eval(text.strip())


def test_a_value_followed_by_further_lines_is_a_string_not_cut_off():
    assert overrides.parse_value("3\ny = 4") == "3\ny = 4"
    assert overrides.parse_value("3\n[search]\ntrials = 1") == "3\n[search]\ntrials = 1"
    assert overrides.parse_value('"""a\nb"""') == "a\nb"


def test_a_custom_option_that_is_no_longer_searched_has_no_built_in_default():
    document = {
        "train": {"objective": "own:climb"},
        "space": {
            "optimizer": {"choices": ["sgd", "lion"], "when": {"kind": "net"}},
            "beta": {"low": 0.1, "high": 0.9, "when": {"optimizer": "sgd"}},
            "depth": {"choices": [1, 2], "when": {"kind": "tree"}},
        },
    }
    overrides.apply_set(document, "train.kind=tree")
    assert document["space"] == {"depth": {"choices": [1, 2], "when": {"kind": "tree"}}}


@settings(deadline=None, max_examples=100)
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_any_text_is_applied_or_refused_with_a_definition_error(texts):
    with contextlib.suppress(DefinitionError):
        file.parse_document({"name": "s", **applied(*texts)}, "s.toml")


@settings(deadline=None, max_examples=50)
@given(TEXTS)
def test_applying_a_text_twice_equals_applying_it_once(text):
    try:
        once = applied(text)
    except DefinitionError:
        return
    assert repr(applied(text, text)) == repr(once)  # also where a value is nan


@pytest.mark.parametrize(
    ("text", "value"),
    [("True", True), ("False", False), (".5", 0.5), ("5.", 5.0), ("-.5e3", -500.0), ('".5"', ".5")],
)
def test_pythons_spellings_of_booleans_and_numbers_are_read(text, value):
    assert overrides.parse_value(text) == value
    assert type(overrides.parse_value(text)) is type(value)


CUSTOM = {
    "train": {"objective": "own:f", "flag": True, "note": "a"},
    "space": {"width": {"low": 1, "high": 4}, "kind": {"choices": ["a", "b"]}, "deep": [True, False]},
    "points": [{"rate": 0.5}],
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.flag=no", "want true or false, as the study file has (true), found 'no'"),
        ("train.flag=1", "want true or false, as the study file has (true), found 1"),
        ("train.note=3", "want a string, as the study file has ('a'), found 3"),
        ("train.width=wide", "want a number, as the study file has (1), found 'wide'"),
        ("train.kind=true", "want a string, as the study file has ('a'), found true"),
        ("train.deep=yes", "want true or false, as the study file has (true), found 'yes'"),
        ("train.rate=x", "want a number, as the study file has (0.5), found 'x'"),
    ],
)
def test_a_value_of_another_type_for_a_custom_objective_is_refused(text, message):
    with pytest.raises(DefinitionError) as refused:
        overrides.apply_set(copy.deepcopy(CUSTOM), text)
    assert str(refused.value) == f"--set {text}: {message}"


def test_a_value_of_the_same_type_or_a_new_option_is_set_for_a_custom_objective():
    document = copy.deepcopy(CUSTOM)
    for text in ("train.flag=False", "train.width=.5", "train.kind=c", "train.rate=2", "train.new=x"):
        overrides.apply_set(document, text)
    options = {"flag": False, "width": 0.5, "kind": "c", "rate": 2, "new": "x"}
    assert document["train"] == {"objective": "own:f", "note": "a", **options}


@settings(deadline=None)
@given(OPTIONS, SCALARS)
def test_fixing_an_option_removes_it_from_the_space_and_from_every_point(option, value):
    document = applied(f"train.{option}={json.dumps(value, ensure_ascii=False)}")
    assert document["train"][option] == value
    assert option not in document["space"]
    assert not any(option in point for point in document["points"])


@settings(deadline=None)
@given(OPTIONS, st.lists(SCALARS, max_size=3))
def test_searching_an_option_removes_it_from_train(option, values):
    document = applied(f"space.{option}={json.dumps(values, ensure_ascii=False)}")
    assert document["space"][option] == values
    assert option not in document["train"]
