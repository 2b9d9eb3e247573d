"""What earlier studies say of settings, learned from the order of their trials."""

import math

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search import samplers
from hpo.search.curve_forecast import CurveForecaster, curve_space
from hpo.search.freeze_thaw import RANDOM_TRIALS
from hpo.search.rank_prior import learn_priors
from hpo.study.definition import Definition
from tests.support.searched_study import maximizing, study_of

EPOCHS, BEST = 9, 0.03
LR = optuna.distributions.FloatDistribution(1e-4, 1.0, log=True)


def study(**train) -> Definition:
    return study_of(
        space={"lr": {"low": 1e-4, "high": 1.0, "log": True}},
        epochs=train.pop("epochs", EPOCHS),
        train={"schedule": "constant"} | train,
        trials=100,
        sampler={"name": "freeze_thaw"},
        pruner={"name": "freeze_thaw"},
    )


def distance(lr: float) -> float:
    return abs(math.log10(lr / BEST))


def trials_of(score, epochs: int, count: int = 20) -> list[FrozenTrial]:
    """Return trials, with all their epochs, of learning rates over the whole range."""
    created = []
    for lr in np.geomspace(1e-4, 1.0, count).tolist():
        values = {epoch: score(lr) * epoch / epochs for epoch in range(1, epochs + 1)}
        created.append(
            optuna.trial.create_trial(
                state=TrialState.PRUNED,
                params={"lr": lr},
                distributions={"lr": LR},
                intermediate_values=values,
            )
        )
    return created


def test_settings_are_ordered_as_in_the_earlier_study():
    """Its values, its metric's direction and its epochs differ from those of the new study."""
    for metric, score in (("accuracy", lambda lr: 0.2 - 0.02 * distance(lr)), ("loss", distance)):
        (say,) = learn_priors(study(), [(study(epochs=4, metric=metric), trials_of(score, 4))])
        encoder = curve_space(study()).encoder
        rates = np.geomspace(1e-4, 1.0, 31)
        said = say(np.array([encoder.encode({"lr": lr}) for lr in rates.tolist()]))
        assert distance(rates[said.argmax()]) < 0.3
        assert max(said[0], said[-1]) < said.max() - 0.5
        assert -3 < said.min() < said.max() < 3, "normal quantiles"


def test_a_study_that_says_nothing_is_left_out():
    failed = trials_of(lambda lr: math.nan, 4)
    assert learn_priors(study(), [(study(epochs=4), failed), (study(), [])]) == ()


def test_of_the_first_settings_some_are_those_that_did_well_before():
    priors = learn_priors(study(), [(study(epochs=4), trials_of(lambda lr: -distance(lr), 4))])
    found = []
    for number in range(60):
        warm = samplers.build_sampler(study(), number, priors)
        setting = warm.sample_relative(maximizing(), FrozenTrial.__new__(FrozenTrial), {})
        found += [setting["lr"]] if setting else []
    assert 8 < len(found) < 24, "one in four"
    assert max(map(distance, found)) < 0.3


def distance_found(best_before: float, own: list[FrozenTrial], *, is_warm: bool) -> float:
    """Return how far from the best learning rate that one is of which the model expects most."""
    earlier = trials_of(lambda lr: -abs(math.log10(lr / best_before)), 4)
    priors = learn_priors(study(), [(study(epochs=4), earlier)]) if is_warm else ()
    fitted = CurveForecaster(curve_space(study(), priors)).fit(own)
    assert fitted is not None
    rates = np.geomspace(1e-4, 1.0, 41)
    rows = np.array([curve_space(study()).encoder.encode({"lr": lr}) for lr in rates.tolist()])
    return distance(rates[fitted.final_quantiles(rows).argmax()])


def test_an_order_that_holds_is_taken_over_and_another_one_is_not():
    own = trials_of(lambda lr: 0.9 - 0.2 * distance(lr), EPOCHS, RANDOM_TRIALS)
    for number, each in enumerate(own):
        each.number = number
    few = own[:2]  # far below the best learning rate
    assert distance_found(BEST, few, is_warm=True) < 0.15 < distance_found(BEST, few, is_warm=False)
    assert distance_found(1e-4, own, is_warm=True) < 0.3
