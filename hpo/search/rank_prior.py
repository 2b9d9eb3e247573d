"""What studies of other data sets say of a setting: at which place it would end among their trials.

The values of two data sets cannot be compared, but the order of their settings often can: a learning rate
that is too large for one network is so for most. So a model of the earlier study's curves
(``curve_forecast``) forecasts the normal quantile of the rank that a setting would have there. The new
study's model adds this number times a weight, which it learns (``curve_model``): about zero if the orders
have nothing in common.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from optuna.trial import FrozenTrial

from hpo.search.curve_forecast import CANDIDATES, CurveForecaster, CurveSpace
from hpo.search.curve_model import Array, Prior
from hpo.search.encoding import SpaceEncoder
from hpo.study.definition import Definition
from hpo.study.space import Value


def learn_priors(
    new: Definition, earlier: Iterable[tuple[Definition, Sequence[FrozenTrial]]]
) -> tuple[Prior, ...]:
    """Return what earlier studies say of a new study's settings; those without a finite value say nothing.

    Args:
        new: The new study.
        earlier: The earlier studies, each with its trials; these have the parameters of the new one.
    """
    found = (_learn_prior(new, old, trials) for old, trials in earlier if trials)
    return tuple(prior for prior in found if prior is not None)


def _learn_prior(new: Definition, old: Definition, trials: Sequence[FrozenTrial]) -> Prior | None:
    last_epoch = old.max_epochs()
    space = CurveSpace(
        encoder=SpaceEncoder(new.space, {**new.train, "epochs": last_epoch}),
        metric=old.metric,
        last_epoch=last_epoch,
        seed=0,
    )
    fitted = CurveForecaster(space).fit(trials)
    return None if fitted is None else fitted.final_quantiles


def propose_by_priors(
    priors: Sequence[Prior], encoder: SpaceEncoder, rng: np.random.Generator
) -> dict[str, Value]:
    """Return the setting that earlier studies like best, on average, of ``CANDIDATES`` random ones."""
    rows: Array = encoder.random_rows(CANDIDATES, rng)
    said_SM = np.array([prior(rows) for prior in priors])
    return encoder.decode(rows[int(said_SM.mean(axis=0).argmax())].tolist())
