"""Extending a stored study by its changed file.

More searched trials, larger budgets and more points extend a study; ``FREE_OPTIONS`` and those of
``[search]`` in ``FREE_SEARCH_OPTIONS``, which change no result, may differ. Any other difference would make
its trials incomparable and is refused.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hpo.errors import DefinitionError, quote_value
from hpo.study.definition import BUDGETS, Definition, Point
from hpo.study.search_options import Search
from hpo.study.space import Choices, Parameter, Range
from hpo.training import option_tables
from hpo.training.config import FREE_OPTIONS, VALUES_BEFORE

FREE_SEARCH_OPTIONS = {"track", "keep_weights", "max_failures"}


def extend_definition(stored: Definition, new: Definition) -> Definition:
    """Return the stored definition extended by a changed file.

    The points keep their numbers, and new ones follow. A point is identified by its options and attributes,
    not by its place in the file; one that is listed twice counts as two. Settings queued by hand stay. If
    neither names a sampler or a pruner, what was chosen for the stored one stays, too. So do
    ``FREE_SEARCH_OPTIONS``, and the value of an option that is newer than the stored study, if the file
    leaves them out.

    Args:
        stored: The definition in the store.
        new: The definition that the file has now.

    Raises:
        DefinitionError: If anything differs that does not extend a study; it lists all differences. A
            removed budget counts as larger, a new one as smaller.
    """
    new = new.model_copy(update={"search": _with_stored_choices(stored.search, new.search)})
    train = new.train | {name: stored.train[name] for name in _stored_values(stored, new)}
    free = () if new.option_table is option_tables.CUSTOM_OPTIONS else FREE_OPTIONS
    kept, wanted = Counter(map(_point_key, stored.points)), Counter(map(_point_key, new.points))
    differences = [
        *_list_differences({"of": stored.finishes}, {"of": new.finishes}, "finish"),
        *_list_differences(stored.train | {name: train[name] for name in free}, train, "train"),
        *_list_differences(_values_by_name(stored.space), _values_by_name(new.space), "space"),
        *_list_differences(
            _fixed_search_options(stored.search), _fixed_search_options(new.search), "search"
        ),
        *_lowered_budgets(stored, new),
    ]
    if stored.searches and new.search.trials < stored.search.trials:
        differences.append(f"search.trials: {stored.search.trials} -> {new.search.trials}")
    if missing := kept - wanted:
        differences.append(f"points: {missing.total()} of {kept.total()} changed or removed")
    if differences:
        raise DefinitionError(
            f"study '{stored.name}' is stored with another definition ({'; '.join(differences)}); "
            "only more search.trials, larger budgets and more points extend a study: "
            "give this one a --name of its own, or continue the stored one with "
            f"'hpo launch {stored.name}' (or 'hpo delete {stored.name}' first)"
        )
    points = stored.points + tuple(_new_points(new.points, wanted - kept))
    changed: dict[str, Any] = {"search": new.search, "points": points, "train": train}
    if stored.left_out_trials:  # no setting is left for more trials either
        more = new.search.trials - stored.search.trials
        changed["left_out_trials"] = stored.left_out_trials + more
    return stored.model_copy(update=changed)


def _with_stored_choices(stored: Search, new: Search) -> Search:
    """Return the new options of ``[search]`` with what the file leaves to hpo, or to the stored study."""
    left_out = FREE_SEARCH_OPTIONS - new.model_fields_set
    kept: dict[str, Any] = {name: getattr(stored, name) for name in left_out}
    if stored.strategy is not None and new.strategy is not None:
        sampler = new.sampler.model_copy(update={"name": stored.sampler.name})
        kept |= {"sampler": sampler, "pruner": stored.pruner}
    return new.model_copy(update=kept)


def _stored_values(stored: Definition, new: Definition) -> Iterator[str]:
    """Yield the options that the file leaves out and that keep the stored study's values.

    These are options that the study has as before they existed, and those that may have any value.
    """
    for name in new.left_out & {*VALUES_BEFORE, *FREE_OPTIONS} & stored.train.keys():
        if name in FREE_OPTIONS or stored.train[name] == VALUES_BEFORE[name]:
            yield name


def _new_points(points: Iterable[Point], left: Counter[str]) -> Iterator[Point]:
    """Yield the points that are new, each as often as it is; ``left`` counts them by key."""
    for point in points:
        if left[_point_key(point)] > 0:
            left[_point_key(point)] -= 1
            yield point


def _point_key(point: Point) -> str:
    return repr((sorted(point.setting.items()), sorted(point.attributes.items())))


def _values_by_name(parameters: tuple[Parameter, ...]) -> dict[str, Choices | Range]:
    return {parameter.name: parameter.values for parameter in parameters}


def _fixed_search_options(search: Search) -> dict[str, Any]:
    return search.model_dump(exclude={"trials", "strategy", *FREE_SEARCH_OPTIONS, *BUDGETS})


def _lowered_budgets(stored: Definition, new: Definition) -> Iterator[str]:
    """Describe the budgets that are smaller than before; removing a budget enlarges it."""
    for name in BUDGETS:
        before, after = getattr(stored.search, name), getattr(new.search, name)
        if after is None:
            continue
        grows_downwards = name == "target" and stored.metric.is_minimized
        if before is None or (after > before if grows_downwards else after < before):
            yield f"search.{name}: {quote_value(before)} -> {quote_value(after)}"


def _list_differences(old: Mapping[str, Any], new: Mapping[str, Any], section: str) -> Iterator[str]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _list_differences(before, after, f"{section}.{key}")
        elif before != after or type(before) is not type(after):
            yield f"{section}.{key}: {_format_value(before)} -> {_format_value(after)}"


def _format_value(value: Any) -> str:
    return str(value) if isinstance(value, Choices | Range) else quote_value(value)
