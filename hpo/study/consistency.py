"""Checks of a whole definition: what no single part of a study file shows."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from hpo.errors import DefinitionError, quote_value
from hpo.study import control_checks
from hpo.study.checks import Problems, check_keys
from hpo.study.definition import Definition, Point
from hpo.study.option_checks import check_head, check_trainable, check_weights_of_model
from hpo.study.space import Range, combinations, is_active
from hpo.training import catalog, custom, option_tables
from hpo.training.metric import COSTS, METRICS
from hpo.training.yielded import RESERVED_NAMES

LEARNING_SAMPLERS = ("tpe", "freeze_thaw", "gp", "nsgaii")  # samplers that learn from earlier trials
LOSS_OPTIONS = {"loss", "label_smoothing", "focal_gamma"}  # that decide what a loss is
MANY_OBJECTIVES_PRUNERS = ("asha", "hyperband", "none")  # that rank by dominance, or not at all
LONG_NAME = 5  # characters of an option from which on a similar one is taken for a misspelling
SEED_WITH_REPLICATES = (
    "search.replicates gives each setting its seeds, from train.seed on; leave this one out"
)


def grid_points(found: Definition, where: str) -> Iterator[Point]:
    """Yield a point for every combination of the lists in [space]; sampler "grid" runs these.

    A parameter is left out of combinations in which its condition does not hold. An empty [space] yields
    nothing.

    Args:
        found: The definition.
        where: The study file, as error messages name it.

    Raises:
        DefinitionError: If there is a range, or there are more than ``MAX_COMBINATIONS``.
    """
    for parameter in found.space:
        if isinstance(parameter.values, Range):
            raise DefinitionError(
                f"{where}: space.{parameter.name}: sampler 'grid' wants lists or [[points]], found a range"
            )
    try:
        settings = combinations(found.space, found.train)
    except OverflowError as error:
        raise DefinitionError(
            f"{where}: space: sampler 'grid' would run {error}; shorten the lists"
        ) from error
    for setting in settings:
        if setting:
            yield Point(setting=setting)


def check_definition(found: Definition, where: str) -> None:
    """Check that the parts of a definition fit together.

    Args:
        found: The definition; each of its parts has been checked by itself.
        where: The study file, as error messages name it.

    Raises:
        DefinitionError: If there is nothing to run or to search, a seed is searched or listed beside
            replicates, the sampler cannot learn from other studies, options do not fit to each other or to
            the metric, a point is outside of what is searched, or an option of a point is misspelt.
    """
    search = found.search
    if found.setting_count == 0:
        raise DefinitionError(
            f"{where}: nothing to run: search.trials is 0, or the sampler is 'grid', and there are no "
            "[[points]]; list some, or name what to search"
        )
    if found.searches and search.trials and not found.space:
        raise DefinitionError(
            f"{where}: search.trials is {search.trials} but [space] is empty; "
            'name what to search, or run [[points]] alone with search.sampler = "grid"'
        )
    if search.replicates > 1 and any(parameter.name == "seed" for parameter in found.space):
        raise DefinitionError(f"{where}: space.seed: {SEED_WITH_REPLICATES}")
    if search.start_from and search.sampler.name not in LEARNING_SAMPLERS:
        raise DefinitionError(
            f"{where}: search.start_from: sampler {quote_value(search.sampler.name)} does not learn from "
            f"trials; leave it out, or use {' or '.join(LEARNING_SAMPLERS)}"
        )
    problems = Problems(where)
    with problems.collect():
        _check_metric(found, where)
    if found.option_table is not option_tables.CUSTOM_OPTIONS:
        with problems.collect():
            control_checks.check_controls(found, where)
    for index, listed in enumerate(found.points, 1):
        with problems.collect():
            check_point_in_space(found, listed, where, f"points[{index}]")
    if not found.searches and found.option_table is option_tables.CUSTOM_OPTIONS:
        with problems.collect():
            _check_spelling(found, where)
    problems.report()


def _check_metric(found: Definition, where: str) -> None:
    """Refuse what does not fit to the metric: options of the other kind of objective, a target, a loss."""
    search, metric = found.search, found.metric
    if found.option_table is not option_tables.CUSTOM_OPTIONS:
        for option, default in (("direction", "maximize"), ("metric_name", "accuracy")):
            if getattr(search, option) != default:
                raise DefinitionError(
                    f"{where}: search.{option}: is for a custom objective; built-in training has "
                    f"train.metric, one of {', '.join(METRICS)}"
                )
        settings = {parameter.name for parameter in found.space}
        settings |= {option for point in found.listed_points for option in point.setting}
        if metric.name == "loss" and (varied := settings & LOSS_OPTIONS):
            raise DefinitionError(
                f"{where}: train.metric: losses with different {' and '.join(sorted(varied))} cannot be "
                "compared; choose another metric, or fix the option in [train]"
            )
    elif metric.name in RESERVED_NAMES:
        raise DefinitionError(
            f"{where}: search.metric_name: {quote_value(metric.name)} names something else in the results; "
            f"want another name than {', '.join(sorted(RESERVED_NAMES))}"
        )
    if search.objectives:
        _check_objectives(found, where)
    low, high = metric.limits
    if search.target is not None and not low < search.target <= high:
        raise DefinitionError(
            f"{where}: search.target: want a value of {metric.name}, above {low:g} and at most {high:g}, "
            f"found {search.target:g}"
        )


def _check_objectives(found: Definition, where: str) -> None:
    """Refuse objectives that are unknown or listed twice, and what cannot be used with several."""
    search, is_custom = found.search, found.option_table is option_tables.CUSTOM_OPTIONS
    given = search.objectives
    known = [found.metric.name, "epoch_seconds"] if is_custom else [*METRICS, *COSTS]
    if len(given) < 2 or len(set(given)) < len(given) or not set(given) <= set(known):
        single = "; a single metric is " + ("search.metric_name" if is_custom else "train.metric")
        raise DefinitionError(
            f"{where}: search.objectives: want two or more of {', '.join(known)}, each once, found "
            f"{quote_value(list(given))}{single if len(given) == 1 else ''}"
        )
    if found.metric.name not in given:
        raise DefinitionError(f"{where}: search.objectives: lacks {quote_value(found.metric.name)}; add it")
    problems = Problems(where)
    misplaced = {
        "target: is for a single objective; leave it out": search.target is not None,
        "start_from: is for a single objective; leave it out": bool(search.start_from),
        f"pruner: {quote_value(search.pruner.name)} compares a single objective; with several, want one "
        f"of {', '.join(MANY_OBJECTIVES_PRUNERS)}": search.pruner.name not in MANY_OBJECTIVES_PRUNERS,
        "sampler: 'freeze_thaw' models a single objective; with several, want one of nsgaii, tpe, gp, qmc, "
        "random": search.sampler.name == "freeze_thaw",
    }
    for text, is_wrong in misplaced.items():
        with problems.collect():
            if is_wrong:
                raise DefinitionError(f"{where}: search.{text}")
    problems.report()


def _check_spelling(found: Definition, where: str) -> None:
    """Refuse an option that is probably misspelt, in a grid study with a custom objective.

    Its points may name any option. One that only a single point names is refused if that point lacks a very
    similar one, which ``[train]`` or another point gives. Short names resemble too many words for that.
    """
    counts = Counter(option for listed in found.points for option in listed.setting)
    for index, listed in enumerate(found.points, 1):
        for option in listed.setting:
            if counts[option] > 1 or option in found.train:
                continue
            others = {*found.train, *counts} - {*listed.setting, *_numbered_alike(option, counts)}
            long = (name for name in others if len(name) >= LONG_NAME)
            if near := difflib.get_close_matches(option, long, n=1, cutoff=0.85):
                raise DefinitionError(
                    f"{where}: points[{index}].{option}: neither [train] nor another point gives it; did "
                    f"you mean '{near[0]}'? If it is an option of its own, give it a value in [train], too"
                )


def _numbered_alike(option: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the names that differ from an option in their digits alone, as conv1 and conv2 do."""
    plain = re.sub(r"\d+", "", option)
    return (name for name in names if re.sub(r"\d+", "", name) == plain)


def check_point_in_space(found: Definition, listed: Point, where: str, key: str) -> None:
    """Refuse a listed setting that the study cannot run, such as one outside of what it searches.

    Args:
        found: The definition.
        listed: The setting, checked by itself.
        where: The study file, as error messages name it.
        key: The name of the point in error messages, as ``points[1]``.

    Raises:
        DefinitionError: If it names a seed beside replicates, lacks a searched option without a default,
            has a value outside of what is searched, or breaks a rule between options. With a custom
            objective also if it names an option that is neither fixed nor searched, or one that is not
            searched beside the setting's other values.
    """
    if found.search.replicates > 1 and "seed" in listed.setting:
        raise DefinitionError(f"{where}: {key}.seed: {SEED_WITH_REPLICATES}")
    if found.searches and found.option_table is option_tables.CUSTOM_OPTIONS:
        _check_custom_options(found, listed, where, key)
    if found.option_table is not option_tables.CUSTOM_OPTIONS:
        control_checks.check_setting(found.train | listed.setting, where, key)
    setting = found.complete_hyperparameters(listed)
    for parameter in found.space if found.searches else ():
        value = setting.get(parameter.name)
        if parameter.name not in setting and is_active(parameter, found.train | listed.setting):
            raise DefinitionError(
                f"{where}: {key}: {parameter.name} is left out, is searched and has no default; name it"
            )
        if parameter.name in setting and not parameter.contains(value):
            how = "found" if parameter.name in listed.setting else "left out, it falls back to"
            whole = "whole numbers " if parameter.kind == "int" else ""
            raise DefinitionError(
                f"{where}: {key}.{parameter.name}: {how} {quote_value(value)}, outside of what "
                f"space.{parameter.name} searches ({whole}{parameter.values}); name one inside"
            )


def _check_custom_options(found: Definition, listed: Point, where: str, key: str) -> None:
    """Refuse options of a setting that a custom objective's study does not use.

    The study file alone says which options such an objective has, and under which conditions.
    """
    known = {*found.train, *(parameter.name for parameter in found.space)}
    check_keys(listed.setting, known, where, key)
    whole = found.train | listed.setting
    for parameter in found.space:
        if parameter.name in listed.setting and not is_active(parameter, whole):
            conditions = " and ".join(
                f"{other} is {' or '.join(map(quote_value, wanted))}"
                for other, wanted in parameter.condition().items()
            )
            raise DefinitionError(
                f"{where}: {key}.{parameter.name}: space.{parameter.name} has it only when {conditions}; "
                "leave it out"
            )


def check_models(found: Definition, where: str) -> None:
    """Check every model that the study can train against torchvision, once per kind of setting.

    The names of weights are checked first, of all models.

    For a custom objective, check instead that it can be imported. That runs its module, and adds the
    working directory to ``sys.path``.

    Args:
        found: The definition.
        where: The study file, as error messages name it.

    Raises:
        DefinitionError: If models cannot be trained as the settings say, of which it names all, there are
            too many kinds of settings, or the objective cannot be imported.
    """
    if found.option_table is option_tables.CUSTOM_OPTIONS:
        custom.import_objective(str(found.train["objective"]))
    try:
        kinds = list(found.model_configs())
    except OverflowError as error:
        raise DefinitionError(
            f"{where}: space: {error} of options that decide what a model is; shorten the lists"
        ) from error
    problems = Problems(where)
    for section, model, weights in dict.fromkeys((key, each.model, each.weights) for key, each in kinds):
        with problems.collect():
            check_weights_of_model(model, weights, where, section)
    problems.report()
    for section, settings in kinds:
        with problems.collect():
            check_trainable(settings, where, section)
    for model in sorted(filter(catalog.is_user_network, found.models())):
        if options := control_checks.options_that_need_a_head(found):
            with problems.collect():
                check_head(model, options, where)
    problems.report()
