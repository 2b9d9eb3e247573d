"""What a custom objective may yield, and the message that anything else gets."""

import math
from decimal import Decimal
from types import MappingProxyType

import numpy as np
import pytest
import torch

from hpo.training.yielded import epoch_of, parse_yielded

NUMBERS = [
    *(0.5, Decimal("0.5"), np.float64(0.5), np.float32(0.5), np.array(0.5)),
    *(torch.tensor(0.5), torch.tensor(0.5, dtype=torch.bfloat16)),
]
FORMS = "want (accuracy, state), or (accuracy, state, metrics)"


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_a_number_of_any_library_is_a_value_and_a_metric(number):
    found = parse_yielded((number, "state", {"recall": number, "loss": number}), "accuracy")
    assert (found.value, found.state) == (0.5, "state")
    assert (found.own_metrics, found.known_metrics) == ({"recall": 0.5}, {"loss": 0.5})
    assert {type(each) for each in (found.value, *found.own_metrics.values())} == {float}


@pytest.mark.parametrize("kind", [dict, MappingProxyType])
def test_the_studys_metric_is_taken_out_of_a_dict_of_metrics(kind):
    metrics = kind({"f1": 0.75, "accuracy": 0.5, "auroc": 0.25, "ece": math.inf})
    found = parse_yielded([metrics, None, {"recall": 1}], "f1")
    assert (found.value, found.state) == (0.75, None)
    assert found.known_metrics == {"accuracy": 0.5, "auroc": 0.25}
    assert found.own_metrics == {"ece": math.inf, "recall": 1.0}


@pytest.mark.parametrize(
    ("yielded", "message"),
    [
        (None, f"yielded None; {FORMS}"),
        (0.5, f"yielded 0.5; {FORMS}"),
        ("ab", f"yielded the string 'ab'; {FORMS}"),
        (True, f"yielded the bool True; {FORMS}"),
        (torch.zeros(2), f"yielded a Tensor of shape (2,); {FORMS}"),
        (
            {"accuracy": 0.5},
            "yielded the dict {'accuracy': 0.5} without a state; want ({'accuracy': number, ...}, state); "
            "the state may be None",
        ),
        ((0.5,), f"yielded (0.5,), a tuple of 1 part; {FORMS}"),
        ((), f"yielded (), a tuple of 0 parts; {FORMS}"),
        ([0.5, None, {}, 1], f"yielded [0.5, None, {{}}, 1], a list of 4 parts; {FORMS}"),
        ((None, None), "yielded None as the accuracy; want a finite"),
        (("0.5", None), "yielded the string '0.5' as the accuracy; want a finite"),
        ((True, None), "yielded the bool True as the accuracy; want a finite"),
        ((np.bool_(True), None), "yielded np.True_ as the accuracy; want a finite"),
        ((torch.tensor(True), None), "yielded tensor(True) as the accuracy; want a finite"),
        ((math.nan, None), "yielded nan as the accuracy; want a finite"),
        ((-math.inf, None), "yielded -inf as the accuracy; want a finite"),
        ((torch.tensor(math.nan), None), "yielded tensor(nan) as the accuracy; want a finite"),
        ((10**400, None), "yielded 1000"),
        ((1j, None), "yielded 1j as the accuracy; want a finite"),
        ((torch.ones(1), None), "yielded a Tensor of shape (1,) as the accuracy; want a finite"),
        (
            (np.ones((2, 3)), None),
            "yielded a ndarray of shape (2, 3) as the accuracy; want a finite",
        ),
        (
            ({"f1": 0.5, "loss": 1.0}, None),
            "yielded metrics without 'accuracy', which the study compares; found f1, loss",
        ),
        (({}, None), "yielded metrics without 'accuracy', which the study compares; found none"),
        (({"accuracy": math.nan}, None), "yielded nan as the accuracy; want a finite"),
        (({"accuracy": 1, "f1": "a"}, None), "yielded the string 'a' as the metric 'f1'; want a number"),
        (
            ({"accuracy": 1, "f1": 1}, None, {"f1": 2}),
            "yielded the metric 'f1' twice; want one number for each name",
        ),
        ((0.5, None, 0.25), "yielded 0.25 as its other metrics; want a dict of numbers by name"),
        ((0.5, None, None), "yielded None as its other metrics; want a dict of numbers by name"),
        ((0.5, None, {"f1": None}), "yielded None as the metric 'f1'; want a number"),
        (
            (0.5, None, {"accuracy": 1}),
            "yielded another metric called 'accuracy'; want a text of 1 to",
        ),
        ((0.5, None, {"epoch": 1}), "yielded another metric called 'epoch'; want a text of 1 to"),
        (
            (0.5, None, {1: 1}),
            "yielded another metric called 1; want a text of 1 to",
        ),
    ],
)
def test_each_other_form_has_a_message_of_one_line(yielded, message):
    with pytest.raises(ValueError, match=r"^yielded ") as error:
        parse_yielded(yielded, "accuracy")
    text = str(error.value)
    assert text.startswith(message)
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("state", "epoch"),
    [
        (None, None),
        ({"epoch": 3}, 3),
        ({"epoch": True}, None),
        ({"epoch": 3.0}, None),
        ([3], None),
        ({}, None),
    ],
)
def test_a_states_epoch_is_a_whole_number_under_that_name(state, epoch):
    assert epoch_of(state) == epoch
