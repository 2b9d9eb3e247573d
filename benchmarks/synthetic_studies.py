"""Synthetic studies: search spaces with a learning curve for each setting, drawn at random from a prior.

``SyntheticStudy(seed)`` is one study, and the seed decides all of it. It stands in for a ``Surrogate`` in a
simulation. What is drawn, with the shares of the studies that have it:

* The space: the learning rate, two to five other ranges (one of whole numbers, one logarithmic), one to
  three lists of choices; in two of three studies a range that only some choices of another list have.
* The quality of a setting falls with its distance from an optimum, weighted by parameter. A few parameters
  matter most (weights from a softmax of normal numbers). The optimum moves with the first list's choice;
  one pair of ranges interacts; a sum of random waves makes the quality rough.
* The curve rises from the value of guessing towards that quality. It is a mixture of an exponential and a
  power law (Domhan et al. 2015, "Speeding Up Automatic Hyperparameter Optimization of Deep Neural Networks
  by Extrapolation of Learning Curves"). Its time constant depends on the setting.
* Late starters (four in ten): some settings stay at the value of guessing for up to a third of the epochs.
* Schedules (six in ten): one list is ``schedule``. "constant" is ahead early and ends lower; "step" leaps
  at 1/2 and 3/4 of the epochs; "cosine" gains most towards the end. So curves cross.
* Decline (three in ten): some settings get worse after their best epoch.
* Divergence: beyond a learning rate that depends on the first list, the value falls back to guessing.
* Noise: of each epoch, and of each run as a whole. Values are shares of a number of images, so they tie.
* Costs: the seconds of an epoch depend on a list (up to eight times) and on a range (up to two times).
"""

import functools
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from hpo.analysis.recorded_curves import Curve, RecordedCurves
from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.search_options import Search
from hpo.study.space import Choices, Parameter, Range, Setting

STUDIES = 60  # seeds 0 to 59; even ones are for choosing a strategy, odd ones for reporting on it
OTHER_STUDIES = ("alike", "unrelated")
EPOCHS = (12, 20, 27, 30, 50, 81)
KNOWN_SETTINGS = 2000  # random settings among which the best value is looked for
RANGES = (
    Parameter(name="weight_decay", kind="float", values=Range(low=1e-6, high=1e-1, log=True)),
    Parameter(name="batch_size", kind="int", values=Range(low=8, high=128, log=True)),
    Parameter(name="dropout", kind="float", values=Range(low=0.0, high=0.7)),
    Parameter(name="label_smoothing", kind="float", values=Range(low=0.0, high=0.3)),
    Parameter(name="layer_decay", kind="float", values=Range(low=0.5, high=1.0)),
)

Vector = NDArray[np.float64]


class SyntheticStudy:
    """One study of the prior; it has the methods of ``Surrogate`` that a simulation uses.

    Args:
        seed: Decides the whole study.
        other: One of ``OTHER_STUDIES`` gives another study with the same space. "alike" is as if it had
            other pictures: the optimum is moved, and the lists' choices are worth somewhat less or more.
            In an "unrelated" one all is drawn anew.
    """

    def __init__(self, seed: int, other: str | None = None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        rng = np.random.default_rng([20261130, seed])
        self.seed, self.epochs = seed, int(rng.choice(EPOCHS))
        self._draw_space(rng)
        self._draw_quality(rng)
        self._draw_curves(rng)
        if other == "alike":
            self._change_pictures(np.random.default_rng([20261201, seed]))
        elif other == "unrelated":
            rng = np.random.default_rng([20261202, seed])
            self._draw_quality(rng)
            self._draw_curves(rng)

    def _draw_space(self, rng: np.random.Generator) -> None:
        lists = [_choice("optimizer", rng), _choice("model", rng), _choice("augmentation", rng)]
        lists = lists[: rng.integers(1, 4)]
        self.has_schedule = bool(rng.random() < 0.6)
        if self.has_schedule:
            choices = Choices(choices=("constant", "step", "cosine"))
            lists.append(Parameter(name="schedule", kind="choice", values=choices))
        ranges = [RANGES[index] for index in rng.permutation(len(RANGES))[: rng.integers(2, 6)]]
        low = float(10 ** rng.uniform(-6, -4))
        ranges.insert(
            0, Parameter(name="lr", kind="float", values=Range(low=low, high=low * 10**4, log=True))
        )
        self.parameters = lists + ranges
        if rng.random() < 2 / 3:
            choices_of = lists[0].choices_or_bounds()
            values = Range(low=0.0, high=0.99, when={lists[0].name: choices_of[:1]})
            self.parameters.append(Parameter(name="momentum", kind="float", values=values))

    def _draw_quality(self, rng: np.random.Generator) -> None:
        names = [each.name for each in self.parameters]
        weights = np.exp(rng.normal(0.0, 1.2, len(names)))
        weights[names.index("lr")] = max(weights[names.index("lr")], np.median(weights))
        self._weights = dict(zip(names, weights / weights.sum(), strict=True))
        first = self.parameters[0].choices_or_bounds()
        self._optima = {name: rng.uniform(0.15, 0.85) for name in names}
        self._shifts = {name: rng.normal(0.0, 0.1, len(first)) for name in names}
        self._widths = {name: rng.uniform(0.15, 0.6) for name in names}
        self._penalties = {
            each.name: np.sort(rng.exponential(0.6, len(each.choices_or_bounds())))[
                rng.permutation(len(each.choices_or_bounds()))
            ]
            for each in self.parameters
            if each.kind == "choice"
        }
        for penalties in self._penalties.values():
            penalties -= penalties.min()
        numeric = [each.name for each in self.parameters if each.kind != "choice"]
        self._pair = tuple(rng.choice(numeric, 2, replace=False))
        self._interaction = rng.uniform(0.0, 1.5)
        self._waves = rng.normal(0.0, 4.0, (6, len(names))), rng.uniform(0, 2 * math.pi, 6)
        self._roughness = rng.uniform(0.0, 0.08)
        self._steepness = 10 ** rng.uniform(-0.6, 0.6)
        self.guess = float(rng.choice([0.01, 0.1, 0.2, 0.5]))
        self.top = float(rng.uniform(self.guess + 0.25 * (1 - self.guess), 0.99))

    def _draw_curves(self, rng: np.random.Generator) -> None:
        names = [each.name for each in self.parameters]
        self._speed = 10 ** rng.uniform(-1.7, -0.5), rng.normal(0.0, 0.5, len(names)), rng.uniform(0.0, 1.0)
        self._power_share, self._power = rng.uniform(0.0, 1.0), rng.uniform(0.4, 1.5)
        self._delay = rng.uniform(0.1, 0.33) if rng.random() < 0.4 else 0.0
        self._delay_direction = rng.normal(0.0, 1.0, len(names))
        self._gaps = rng.uniform(0.02, 0.15, 2)
        self._decline = rng.uniform(0.02, 0.2) if rng.random() < 0.3 else 0.0
        self._decline_direction = rng.normal(0.0, 1.0, len(names))
        self._diverges_above = rng.uniform(0.7, 1.15, len(self.parameters[0].choices_or_bounds()))
        spread = self.top - self.guess
        self._noise = spread * 10 ** rng.uniform(-2.7, -1.6), spread * 10 ** rng.uniform(-2.7, -1.8)
        self._images = int(rng.choice([200, 500, 1000, 5000]))
        self._seconds = 10 ** rng.uniform(0.0, 2.0)
        costly = self.parameters[int(rng.integers(0, len(self._penalties)))]
        self._costly = costly.name, 8 ** rng.uniform(0.0, 1.0, len(costly.choices_or_bounds()))
        self._costly_range = str(rng.choice(names[len(self._penalties) :]))

    def _change_pictures(self, rng: np.random.Generator) -> None:
        """Become a study in which about the same settings do well."""
        self._optima = {name: each + rng.normal(0.0, 0.1) for name, each in self._optima.items()}
        self._penalties = {
            name: each * np.exp(rng.normal(0.0, 0.5, len(each))) for name, each in self._penalties.items()
        }
        self._waves = self._waves[0], rng.uniform(0, 2 * math.pi, 6)
        self._speed = self._speed[0] * 10 ** rng.normal(0.0, 0.2), *self._speed[1:]
        self.guess = float(rng.choice([0.01, 0.1, 0.2, 0.5]))
        self.top = float(rng.uniform(self.guess + 0.25 * (1 - self.guess), 0.99))

    def predict_curve(self, setting: Setting) -> Curve:
        """Return the curve of a setting; the same setting always has the same curve."""
        text = f"{self.seed}/{sorted(setting.items())}"
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
        unit = self._encode(setting)
        values = self._exact_values(setting, unit)
        values += rng.normal(0.0, self._noise[0], self.epochs) + rng.normal(0.0, self._noise[1])
        values = np.round(np.clip(values, 0.0, 1.0) * self._images) / self._images
        factor = self._costly[1][self._index(self._costly[0], setting)]
        factor *= 2 ** unit.get(self._costly_range, 0.0)
        seconds = self._seconds * factor * self.epochs * rng.uniform(0.97, 1.03)
        return Curve(values=tuple(values.tolist()), total_seconds=float(seconds))

    def _exact_values(self, setting: Setting, unit: Mapping[str, float]) -> Vector:
        """Return the values after each epoch without noise."""
        vector = np.array([unit.get(each.name, 0.5) for each in self.parameters])
        epochs_T = np.arange(1, self.epochs + 1, dtype=float)
        badness = self._badness(setting, unit, vector)
        height = (self.top - self.guess) * math.exp(-badness)
        base, direction, drag = self._speed
        constant = (
            base * self.epochs * math.exp(float(direction @ (vector - 0.5)) + drag * min(badness, 2.0))
        )
        delay = (
            self._delay * self.epochs * max(0.0, math.tanh(float(self._delay_direction @ (vector - 0.5))))
        )
        since_T = np.maximum(epochs_T - delay, 0.0) / constant
        left_T = (1 - self._power_share) * np.exp(-since_T) + self._power_share * (
            1 + since_T
        ) ** -self._power
        values_T = self.guess + height * (1 - left_T) * self._schedule_factor(setting, epochs_T)
        slope = self._decline * max(0.0, math.tanh(float(self._decline_direction @ (vector - 0.5))))
        late_T = np.maximum(epochs_T / self.epochs - min(3 * constant / self.epochs, 0.8), 0.0)
        values_T -= height * slope * late_T
        excess = unit["lr"] - self._diverges_above[self._index(self.parameters[0].name, setting)]
        if excess > 0:
            fails_at = 1 + self.epochs * max(0.0, 0.3 - 4 * excess)
            values_T[epochs_T >= fails_at] = self.guess
        return values_T

    def _badness(self, setting: Setting, unit: Mapping[str, float], vector: Vector) -> float:
        first = self._index(self.parameters[0].name, setting)
        total = 0.0
        for name, position in unit.items():
            distance = (position - self._optima[name] - self._shifts[name][first]) / self._widths[name]
            total += self._weights[name] * distance**2
        for name, penalties in self._penalties.items():
            total += self._weights[name] * penalties[self._index(name, setting)]
        if all(name in unit for name in self._pair):
            total += (
                self._interaction
                * float(np.prod([unit[name] - self._optima[name] for name in self._pair])) ** 2
            )
        waves, phases = self._waves
        rough = self._roughness * float(np.cos(waves @ vector + phases).mean())
        return max(self._steepness * total + rough + self._roughness, 0.0)

    def _schedule_factor(self, setting: Setting, epochs_T: Vector) -> Vector:
        """Return by which factor the schedule lowers the rise after each epoch."""
        gap, extra = self._gaps
        share_T = epochs_T / self.epochs
        schedule = setting.get("schedule", "constant") if self.has_schedule else "none"
        if schedule == "constant":
            return np.full_like(share_T, 1 - gap)
        if schedule == "step":
            lowered_T = np.where(share_T <= 0.5, 1.2, np.where(share_T <= 0.75, 0.3, 0.1))
            return np.asarray(1 - gap * lowered_T)
        if schedule == "cosine":
            left_T = (1 + np.cos(math.pi * share_T)) / 2
            return np.asarray(1 - (gap + extra) * left_T)
        return np.ones_like(share_T)

    def _index(self, name: str, setting: Setting) -> int:
        parameter = next(each for each in self.parameters if each.name == name)
        return parameter.choices_or_bounds().index(setting[name])

    def _encode(self, setting: Setting) -> dict[str, float]:
        """Return the positions of a setting's numbers within their ranges, from 0 to 1."""
        found = {}
        for parameter in self.parameters:
            values, value = parameter.values, setting.get(parameter.name)
            if isinstance(values, Range) and isinstance(value, int | float):
                scale = math.log if values.log else float
                low, high = scale(values.low), scale(values.high)
                found[parameter.name] = (scale(value) - low) / (high - low)
        return found

    @functools.cached_property
    def recorded(self) -> RecordedCurves:
        """The curves of ``KNOWN_SETTINGS`` random settings, with the study's definition."""
        definition = Definition(
            name=f"synthetic-{self.seed}",
            train={"objective": "synthetic:curves", "epochs": self.epochs, "seed": 0},
            space=tuple(self.parameters),
            search=Search(),
        )
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        asked = (study.ask() for _ in range(KNOWN_SETTINGS))
        settings = tuple(space.suggest_setting(trial, self.parameters, {}) for trial in asked)
        return RecordedCurves(
            definition=definition, settings=settings, curves=tuple(map(self.predict_curve, settings))
        )

    @functools.cached_property
    def best_value(self) -> float:
        """The best value of the known settings."""
        return max(max(curve.values) for curve in self.recorded.curves)


def _choice(name: str, rng: np.random.Generator) -> Parameter:
    known: dict[str, tuple[Any, ...]] = {
        "optimizer": ("sgd", "adam", "adamw"),
        "model": ("small", "medium", "large", "huge"),
        "augmentation": ("none", "flip", "crop+flip"),
    }
    choices = known[name][: rng.integers(2, len(known[name]) + 1)]
    return Parameter(name=name, kind="choice", values=Choices(choices=choices))
