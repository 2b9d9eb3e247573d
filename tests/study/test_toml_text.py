"""A study document as the text of a study file."""

import datetime
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import DefinitionError
from hpo.study.file import shipped_studies
from hpo.study.toml_text import dump_document, dump_value

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), TEXT, st.datetimes()
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
TABLES = st.dictionaries(TEXT, VALUES, max_size=3)


@given(st.dictionaries(TEXT, VALUES | TABLES | st.lists(TABLES, min_size=1, max_size=3), max_size=4))
def test_a_document_is_read_back_as_it_was(document):
    assert tomllib.loads(dump_document(document, "here")) == document


@pytest.mark.parametrize("name", shipped_studies())
def test_a_shipped_study_is_read_back_as_it_was(name):
    document = tomllib.loads(shipped_studies()[name].read_text())
    assert tomllib.loads(dump_document(document, "here")) == document


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.int64(3), "3"),
        (np.float32(0.5), "0.5"),
        (float("inf"), "inf"),
        ((1, 2), "[1, 2]"),
        (Path("a/b"), '"a/b"'),
        (datetime.date(2030, 1, 31), "2030-01-31"),
        ('\x7f"\\\n', '"\\u007f\\"\\\\\\n"'),
        ({"low": 1e-5, "a b": True}, '{ low = 1e-05, "a b" = true }'),
    ],
)
def test_a_value_is_written_as_toml(value, text):
    assert dump_value(value, "here") == text
    tomllib.loads(f"x = {text}")


def test_a_function_is_refused_with_the_name_to_give():
    def climb(config, state):
        yield 0.5, None

    with pytest.raises(DefinitionError, match=f'give its name, "{__name__}:climb"$'):
        dump_value(climb, "the dict: train.objective")
    climb.__module__ = "__main__"
    with pytest.raises(DefinitionError, match=r'"__main__:climb"; run\(objective=climb\) takes'):
        dump_value(climb, "the dict: train.objective")


@pytest.mark.parametrize("value", [None, object(), {1: 2}, [None], {"a": {None}}])
def test_what_toml_does_not_have_is_refused_with_its_place(value):
    with pytest.raises(DefinitionError, match=r"^train\.lr"):
        dump_value(value, "train.lr")
