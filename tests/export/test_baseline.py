"""An exported model's card and ``hpo export`` say what always answering with the largest class gives."""

from dataclasses import replace

import pytest

from hpo.export import card, predict

METRICS = card.Metrics(
    study="s",
    trial=0,
    state="complete",
    metric="accuracy",
    value=0.9,
    split="valid",
    images=20,
    baseline=0.9,
    note="on the validation split",
    chosen="the best of the search",
    optimistic=False,
    epoch=1,
    epochs=1,
    values=[0.9],
    wall_time_seconds=None,
    epoch_seconds=None,
    hardware={},
)
DESCRIPTION = predict.Description(
    model="resnet18",
    arguments={"num_classes": 2},
    preprocessing=predict.Preprocessing(pixels=32, grey=False, image_size=32),
    settings={"dataset": "digits"},
    study="s",
    trial=0,
)
FACTS = card.TrainingFacts(labels=["a", "b"], images={"train": 2}, skipped=0, params={})
GIVES = "0.9000, which always answering with the largest class gives"


@pytest.mark.parametrize(
    ("accuracy", "images", "doubt"),
    [
        (0.9, 20, f"not above {GIVES}"),
        (0.95, 20, f"not clearly above {GIVES}"),
        (0.99, 2000, ""),
    ],
)
def test_an_accuracy_that_does_not_beat_the_largest_class_is_marked(accuracy, images, doubt):
    metrics = replace(METRICS, value=accuracy, images=images)
    assert card.baseline_doubt(metrics) == doubt
    assert f"| baseline | {doubt or GIVES} |" in card.model_card(DESCRIPTION, metrics, FACTS)


def test_a_model_without_a_known_baseline_has_no_such_line():
    metrics = replace(METRICS, baseline=None)
    assert card.baseline_doubt(metrics) == ""
    assert "| baseline |" not in card.model_card(DESCRIPTION, metrics, FACTS)
