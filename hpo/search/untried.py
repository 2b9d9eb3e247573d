"""Settings that no trial of a study has yet: a searched setting runs once.

Samplers propose settings again: TPE returns to what did well, and random search repeats itself in a small
space. With the same seed such a trial would only repeat a known result. So the transaction that gives a
trial its setting compares the proposal with the settings of all others (``untried_settings`` in the store),
and takes the nearest untried one in its place. Their rules:

* A setting counts as tried once a trial has it, however that trial ends. One that was pruned, diverged or
  failed would do the same again; ``hpo retry`` puts such a trial back under its own number.
* Listed points always run, and a searched trial does not repeat them. A point with an epoch count or a seed
  of its own is another setting.
* Two trials practically never share a value from a continuous range. A setting with one counts as untried.
"""

import itertools
import math
import random
from collections.abc import Container, Iterator, Mapping, Sequence

from hpo.study.definition import Definition
from hpo.study.space import Choices, Parameter, Setting, Value, is_active

SettingKey = frozenset[tuple[str, Value]]


def setting_key(definition: Definition, setting: Setting) -> SettingKey | None:
    """Return a key that equal settings share; None for one with a value from a continuous range.

    Args:
        definition: The study. Its ``train`` gives the options that ``setting`` leaves out.
        setting: Values by option.
    """
    whole = {**definition.train, **setting}
    for parameter in definition.space:
        if parameter.name in setting:
            count = _value_count(parameter)
            if count is None:
                return None
            if parameter.contains(whole[parameter.name]):  # a value of another tool's trial may be outside
                index = _index_of(parameter, whole[parameter.name])
                whole[parameter.name] = _value_at(parameter, index)  # 0.1 + 2 * 0.1 and 0.3 are one value
    return frozenset(whole.items())


def listed_keys(definition: Definition) -> Iterator[SettingKey]:
    """Yield the keys of the settings that a study's points list."""
    for point in definition.listed_points:
        setting = {**point.run_options(), **definition.complete_hyperparameters(point)}
        if (key := setting_key(definition, setting)) is not None:
            yield key


def possible_settings(definition: Definition, most: int) -> list[dict[str, Value]] | None:
    """Return every setting that a study's space can make up; None if there are ``most`` or more.

    Args:
        definition: The study.
        most: More than so many settings are not made.
    """
    made = _settings(definition.space, definition.train, {}, random.Random(0))
    found = list(itertools.islice(made, most))
    has_range = any(setting_key(definition, setting) is None for setting in found)
    return None if has_range or len(found) == most else found


def scarce_settings(definition: Definition) -> list[dict[str, Value]] | None:
    """Return the settings that are there for searched trials, if they are fewer than the trials; else None.

    The study is complete then with one trial for each.
    """
    trials, listed = definition.searched_trials, set(listed_keys(definition))
    every = possible_settings(definition, trials + len(listed))
    if every is None:
        return None
    left = [setting for setting in every if setting_key(definition, setting) not in listed]
    return left if len(left) < trials else None


def nearest_untried(
    definition: Definition, proposal: Setting, tried: Container[SettingKey], seed: int
) -> dict[str, Value] | None:
    """Return the first untried setting, where the parameters defined last differ from the proposal first.

    Args:
        definition: The study.
        proposal: The setting that the sampler proposes.
        tried: The keys of the settings that are tried.
        seed: Decides at which value the search for another one begins.

    Returns:
        Values by parameter; None if every possible setting is tried. It tests at most one setting
        more than are tried.
    """
    rng = random.Random(seed)
    for setting in _settings(definition.space, definition.train, proposal, rng):
        key = setting_key(definition, setting)
        if key is None or key not in tried:
            return setting
    return None


def _settings(
    parameters: Sequence[Parameter], chosen: Setting, proposal: Setting, rng: random.Random
) -> Iterator[dict[str, Value]]:
    """Yield every setting that the parameters can make up, the proposal first."""
    if not parameters:
        yield {}
        return
    first, rest = parameters[0], parameters[1:]
    if not is_active(first, chosen):
        yield from _settings(rest, chosen, proposal, rng)
        return
    for value in _values(first, proposal, rng):
        given = {first.name: value}
        for setting in _settings(rest, {**chosen, **given}, proposal, rng):
            yield given | setting


def _values(parameter: Parameter, proposal: Mapping[str, Value], rng: random.Random) -> Iterator[Value]:
    """Yield the proposed value, then all others; of a continuous range one value, which is enough."""
    proposed = proposal.get(parameter.name)
    count = _value_count(parameter)
    if count is None:
        yield proposed if parameter.name in proposal else _random_value(parameter, rng)
        return
    first = _index_of(parameter, proposed) if parameter.name in proposal else -1
    if first >= 0:
        yield proposed
    start = rng.randrange(count)
    for offset in range(count):
        index = (start + offset) % count
        if index != first:
            yield _value_at(parameter, index)


def _value_count(parameter: Parameter) -> int | None:
    """Return how many values a parameter has; None for a continuous range."""
    values = parameter.values
    if isinstance(values, Choices):
        return len(values.choices)
    if values.low == values.high:
        return 1
    step = values.step or (1 if parameter.kind == "int" else None)
    return None if step is None else 1 + round((values.high - values.low) / step)


def _value_at(parameter: Parameter, index: int) -> Value:
    values = parameter.values
    if isinstance(values, Choices):
        return values.choices[index]
    if parameter.kind == "int":
        return int(values.low) + index * int(values.step or 1)
    return float(min(values.low + index * (values.step or 0.0), values.high))


def _index_of(parameter: Parameter, value: Value) -> int:
    values = parameter.values
    if isinstance(values, Choices):
        return values.choices.index(value)
    assert isinstance(value, int | float)
    return 0 if values.low == values.high else round((value - values.low) / (values.step or 1))


def _random_value(parameter: Parameter, rng: random.Random) -> float:
    """Return a random value of a continuous range."""
    values = parameter.values
    assert not isinstance(values, Choices)
    if not values.log:
        return rng.uniform(values.low, values.high)
    drawn = math.exp(rng.uniform(math.log(values.low), math.log(values.high)))
    return min(max(drawn, values.low), values.high)
