"""Rules between options of the built-in training, which no single option shows."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hpo.errors import DefinitionError, quote_value
from hpo.study.checks import Problems, dotted_key
from hpo.study.definition import Definition
from hpo.study.space import Value, combinations, with_dependencies
from hpo.training.config import MIXING_OPTIONS, USED_BY, Config

# Options that [train] may give only if a trial uses them. It may well have a momentum for trials with SGD
# alone, but who gives one of these expects another result.
CONTROLS = ("min_lr", "layer_decay", "head_lr_multiplier", "freeze_epochs")
NEED_HEAD = ("layer_decay", "head_lr_multiplier", "freeze_epochs")  # of these the ones that name the head


def _min_lr_problem(setting: Mapping[str, Any]) -> str | None:
    rate, lowest = setting["lr"], setting["min_lr"]
    if lowest <= rate or setting["schedule"] not in USED_BY["min_lr"][1]:
        return None
    return f"{lowest:g} is above lr {rate:g}, from which the schedule descends; lower it"


def _mixing_problem(option: str, setting: Mapping[str, Any]) -> str | None:
    """Return what is wrong if [train] mixes images and a trial has another loss."""
    losses = USED_BY[option][1]
    if not setting[option] or setting["loss"] in losses:
        return None
    return (
        f"loss {quote_value(setting['loss'])} is not defined for mixed images; {option} is for "
        f"{', '.join(losses)}; leave {option} out, or use another loss"
    )


def _freeze_epochs_problem(setting: Mapping[str, Any]) -> str | None:
    frozen, epochs = setting["freeze_epochs"], setting["epochs"]
    if frozen < epochs or not frozen or setting["tune"] not in USED_BY["freeze_epochs"][1]:
        return None
    return f"{frozen} of {epochs} epochs leave none in which all layers are trained; use tune = 'head'"


# Option -> the options that its rule compares, and what returns how a setting breaks it.
RULES: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], str | None]]] = {
    "min_lr": (("min_lr", "lr", "schedule"), _min_lr_problem),
    **{option: ((option, "loss"), functools.partial(_mixing_problem, option)) for option in MIXING_OPTIONS},
    "freeze_epochs": (("freeze_epochs", "epochs", "tune"), _freeze_epochs_problem),
}


def check_controls(found: Definition, where: str) -> None:
    """Check that trials of the built-in training can do what a study asks for.

    Args:
        found: The definition; each of its parts has been checked by itself.
        where: The study file, as error messages name it.

    Raises:
        DefinitionError: If a searched setting breaks a rule, no trial uses an option of ``[train]``, or
            lists are too long to check; it names all problems.
    """
    problems = Problems(where)
    for name, (options, rule) in RULES.items():
        broken = (text for setting in _searched(found, options, where) if (text := rule(setting)))
        with problems.collect():
            if text := next(broken, None):
                raise DefinitionError(f"{where}: {name}: {text}")
    for name in CONTROLS:
        other, users = USED_BY[name]
        values = _values(found, other)
        with problems.collect():
            if found.train[name] != Config.model_fields[name].default and not values & {*users}:
                others = " or ".join(sorted(map(quote_value, values)))
                raise DefinitionError(
                    f"{where}: train.{name}: {other} {others} has no {name}; it is for {', '.join(users)}; "
                    "leave it out"
                )
    with problems.collect():
        if not found.train["decay_norms"] and _values(found, "weight_decay") == {0.0}:
            raise DefinitionError(
                f"{where}: train.decay_norms: weight_decay is 0, so nothing decays; leave it out, or give "
                "a weight_decay"
            )
    problems.report()


def check_setting(setting: Mapping[str, Any], where: str, section: str) -> None:
    """Check one listed setting by itself.

    Args:
        setting: The values of all options.
        where: The study file, as error messages name it.
        section: The name of the point in error messages, as ``points[1]``.

    Raises:
        DefinitionError: If it breaks rules; it names all of them.
    """
    problems = Problems(where)
    for name, (_, rule) in RULES.items():
        with problems.collect():
            if text := rule(setting):
                raise DefinitionError(f"{where}: {dotted_key(section, name)}: {text}")
    problems.report()


def options_that_need_a_head(found: Definition) -> list[str]:
    """Return the options of a study whose values ask for something of the model's last layer."""
    return [name for name in NEED_HEAD if _values(found, name) != {Config.model_fields[name].default}]


def _searched(found: Definition, options: tuple[str, ...], where: str) -> Iterator[dict[str, Value]]:
    """Yield settings with every combination of options that searched trials can have."""
    if not found.searches or not found.search.trials:
        return
    try:
        settings = combinations(with_dependencies(found.space, options), found.train)
    except OverflowError as error:
        raise DefinitionError(
            f"{where}: space: {error} of {', '.join(options)}; shorten the lists"
        ) from error
    for setting in settings:
        yield found.train | setting


def _values(found: Definition, option: str) -> set[Value]:
    """Return the values that trials can have for an option; of a range its ends."""
    searched = [each for each in found.space if each.name == option]
    values = {value for each in searched for value in each.choices_or_bounds()}
    values |= {point.setting[option] for point in found.points if option in point.setting}
    is_always_searched = found.searches and searched and not searched[0].condition()
    return values if is_always_searched else values | {found.train[option]}
