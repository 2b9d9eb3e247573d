"""A trial that is no better than guessing is pruned with that reason."""

import math

import optuna
import pytest
import torch

from hpo.search import baseline
from hpo.search.baseline import Baseline, Guess
from hpo.store import process, queue, studies
from hpo.store.history import History
from hpo.study import file
from hpo.study.search_options import Pruner, Search
from hpo.training.config import Config
from hpo.training.metric import METRICS
from hpo.workers.pruning import TrialPrunedByRule, TrialPruner
from hpo.workers.setting import choose_setting


def of_accuracy(share: float, images: int) -> Baseline:
    guess = Guess(value=share, error=math.sqrt(share * (1 - share) / images))
    return Baseline(metric=METRICS["accuracy"], guess=guess, min_epochs=3)


TEN = of_accuracy(0.1, 5000)


def baseline_of(counts: list[int], config: Config, search: Search) -> Baseline | None:
    return baseline.baseline_of(baseline.guess(config, counts), config, search)


def test_the_ceiling_is_the_largest_class_plus_two_standard_errors_and_a_margin():
    found = baseline_of([50, 30, 20], Config(), Search())
    assert found == of_accuracy(0.5, 100)
    assert found.ceiling == pytest.approx(0.5 + 2 * math.sqrt(0.25 / 100) + 0.02)
    hundred = baseline_of([50] * 100, Config(), Search())
    assert hundred.ceiling == pytest.approx(0.01 + 2 * math.sqrt(0.0099 / 5000) + 0.002)


@pytest.mark.parametrize(
    ("curve", "pruned"),
    [
        ((0.12, 0.12, 0.12), True),  # VGG16 with Adam and a too high learning rate
        ((0.12, 0.12), False),
        ((0.10, 0.09, 0.11, 0.10), True),
        ((0.10, 0.14, 0.10), False),
        ((0.80, 0.10, 0.10, 0.10), False),  # its first epoch is above the ceiling
    ],
)
def test_a_curve_that_never_rises_above_the_ceiling_is_pruned_after_min_epochs(curve, pruned):
    reason = TEN.prune_reason(curve)
    assert bool(reason) == pruned
    assert not reason or f"no better than guessing in {len(curve)} epochs" in reason


@pytest.mark.parametrize(
    ("share", "images"), [(0.1, 5000), (0.1, 180), (0.5, 300), (0.01, 5000), (0.9, 500)]
)
def test_guessing_stays_below_the_ceiling_for_three_epochs(share, images):
    chances = torch.full((1000, 3, images), share)
    guesses = torch.bernoulli(chances, generator=torch.Generator().manual_seed(0)).mean(2).amax(1)
    ceiling = of_accuracy(share, images).ceiling
    assert (guesses <= ceiling).float().mean() > 0.95
    assert ceiling < share + (1 - share) / 2, "a model that is halfway to perfect is above it"


def test_on_a_small_split_a_trial_is_pruned_that_was_never_better_than_the_largest_class():
    small = of_accuracy(0.9, 20)
    assert "the largest class alone gives 0.9000" in (small.prune_reason([0.9, 0.85, 0.9]) or "")
    assert small.prune_reason([0.9, 0.95, 0.9]) is None, "one image more than the largest class"
    assert small.prune_reason([0.9, 0.9]) is None, "too early"


def test_a_split_of_one_class_prunes_nothing():
    assert of_accuracy(1.0, 40).prune_reason([1.0] * 9) is None


@pytest.mark.parametrize(
    ("settings", "search", "epochs"),
    [
        (Config(warmup_epochs=4), Search(), 7),
        (Config(schedule="onecycle", epochs=20), Search(), 9),  # has a warm-up of its own
        (Config(), Search(chance_epochs=1, pruner=Pruner(min_epochs=6)), 6),
    ],
)
def test_warm_up_and_the_pruners_first_epochs_raise_min_epochs(settings, search, epochs):
    assert baseline_of([5, 5], settings, search).min_epochs == epochs


def test_the_baseline_can_be_switched_off():
    assert baseline_of([5, 5], Config(), Search(chance_epochs=0)) is None
    assert baseline_of([5, 5], Config(), Search(pruner=Pruner(name="none"))) is None


@pytest.mark.parametrize(
    ("counts", "options", "limits"),
    [
        ([900, 100, 100], {}, ""),
        ([18, 2], {}, "only if it is never better than 0.9000: the images to measure it on are too few"),
        ([18, 2], {"metric": "loss"}, ""),  # luck changes a loss only a little
        ([20, 0], {}, "the images to measure it on have one class only"),
        ([90, 10, 10], {"epochs": 3}, "the rule begins after epoch 3, and trials have 3"),
        ([9, 9], {"metric": "loss", "label_smoothing": 0.1}, "not known what guessing gives for this loss"),
    ],
)
def test_it_is_said_where_the_rule_cannot_apply(counts, options, limits):
    settings = Config(**options)
    found = baseline.describe_limits(baseline.guess(settings, counts), settings, Search())
    assert limits in found
    assert bool(found) == bool(limits)
    assert "\n" not in found
    off = Search(chance_epochs=0)
    assert baseline.describe_limits(baseline.guess(settings, counts), settings, off) == ""


def test_the_originals_vgg16_with_adam_would_have_been_pruned_after_three_epochs(url):
    """Its accuracy never left 0.12 in 30 epochs, a third of all GPU time; AlexNet's rose to 0.62."""
    sets = ["search.prune_points=true", "search.pruner=asha"]
    definition = file.load_study_file(file.find_study_file("original-grid"), sets)
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, definition, "text")
    study_id = studies.find_study_id(storage, definition.name)
    history = History(storage, study_id, definition.name, definition.metric)
    curves = {"vgg16": [0.10, 0.1201, 0.11, 0.10], "alexnet": [0.35, 0.45, 0.5, 0.52]}
    ends = {}
    for _ in definition.points:
        claim = queue.claim_trial(
            storage, study_id, process.current_owner("cpu"), lease_seconds=60, max_attempts=1
        )
        trial, config, study = choose_setting(claim, history, definition)
        if trial.params["optimizer"] != "adam" or config.model not in curves:
            continue
        pruner = TrialPruner(study, history, definition, baseline_of([500] * 10, config, definition.search))
        for epoch, accuracy in enumerate(curves[config.model], 1):
            pruner.note_report(epoch, accuracy)
            claim.commit(report=(epoch, accuracy), ask_pruner=pruner.decide)
            try:
                pruner.raise_if_pruned()
            except TrialPrunedByRule as pruned:
                ends[config.model] = (epoch, str(pruned))
                break
    assert list(ends) == ["vgg16"]
    epoch, why = ends["vgg16"]
    assert epoch == 3
    assert why.startswith("no better than guessing in 3 epochs: accuracy 0.1201")


STUDY = """
[train]
model = "shufflenet_v2_x0_5"
dataset = "digits"
image_size = 16
limit = 200
weights = "none"
epochs = 3
lr = 1e-12

[space]
batch_size = [32, 64]

[search]
trials = 1
sampler = "random"
pruner = "median"
chance_epochs = 2

[[points]]
batch_size = 64
"""


def test_a_trial_that_learns_nothing_is_pruned_with_its_reason_and_a_listed_point_runs_to_its_end(
    workplace,
):
    workplace.here("create", workplace.study(STUDY))
    done = workplace.here("worker", "small")
    assert "trial 1 pruned, accuracy" in done.err
    listed, searched = optuna.load_study(
        study_name="small", storage=f"sqlite:///{workplace.path}/storage/hpo.db"
    ).trials
    assert (listed.state.name, len(listed.intermediate_values)) == ("COMPLETE", 3)
    assert (searched.state.name, len(searched.intermediate_values)) == ("PRUNED", 2)
    assert searched.user_attrs["pruned"].startswith("no better than guessing in 2 epochs: accuracy 0.")
    assert "failure" not in searched.user_attrs
    assert "no better than guessing" in workplace.here("trials", "small").out


def test_on_18_and_2_images_half_of_the_small_class_is_not_called_guessing():
    """Two standard errors of the balanced accuracy are 0.37 there: luck may reach 0.89."""
    found = baseline_of([18, 2], Config(metric="balanced_accuracy"), Search())
    assert found.prune_reason([0.5, 0.75, 0.4]) is None
    assert "guessing gives 0.5000" in (found.prune_reason([0.5, 0.4, 0.5]) or "")
