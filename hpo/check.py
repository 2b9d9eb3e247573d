"""Checks of a study file's parts, each with one line that says where, what was found and what is allowed."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from hpo import catalog, config, space
from hpo.config import Config
from hpo.errors import DefinitionError, suggestion

Record = TypeVar("Record", bound=BaseModel)


def table(value: Any, where: str, key: str) -> Mapping[str, Any]:
    """Give ``value`` if it is a table."""
    if not isinstance(value, Mapping):
        raise DefinitionError(f"{where}: {key}: want a table, found {value!r}")
    return value


def known(given: Iterable[str], allowed: Iterable[str], where: str, section: str) -> None:
    """Refuse a key that is not among those allowed."""
    names = list(allowed)
    for key in given:
        if key not in names:
            _unknown(f"{section}.{key}" if section else key, names, where)


def _unknown(dotted: str, names: Iterable[str], where: str) -> NoReturn:
    names = sorted(names)
    near = suggestion(dotted.rpartition(".")[2], names)
    raise DefinitionError(f"{where}: {dotted} is not an option{near}; options: {', '.join(names)}")


def record(kind: type[Record], given: Mapping[str, Any], where: str, section: str) -> Record:
    """Give ``given`` as a checked record; raises DefinitionError for the first thing wrong with it."""
    try:
        return kind.model_validate(dict(given))
    except ValidationError as error:
        _refuse(error, kind, where, section)


def _refuse(error: ValidationError, kind: type[BaseModel], where: str, section: str) -> NoReturn:
    first = error.errors()[0]
    dotted = ".".join([section, *(str(part) for part in first["loc"])])
    found = first["input"]
    if first["type"] == "extra_forbidden":
        _unknown(dotted, _fields_at(kind, first["loc"][:-1]), where)
    if first["type"] == "literal_error":
        names = str(first["ctx"]["expected"]).replace(" or ", ", ").replace("'", "").split(", ")
        near = suggestion(str(found), names)
        raise DefinitionError(f"{where}: {dotted}: found {found!r}{near}; allowed: {', '.join(names)}")
    wanted = first["msg"].replace("Input should be ", "want ").replace("a valid ", "a ")
    raise DefinitionError(f"{where}: {dotted}: {wanted}, found {found!r}")


def _fields_at(kind: type[BaseModel], path: Iterable[Any]) -> Iterable[str]:
    for part in path:
        nested = kind.model_fields[str(part)].annotation
        assert isinstance(nested, type)
        kind = nested
    return kind.model_fields


def options(given: Mapping[str, Any], where: str, section: str) -> Config:
    """Check the options of ``[train]`` or of a point, and give them with the defaults of the others."""
    checked = record(Config, given, where, section)
    if "dataset" in given:
        _dataset(checked.dataset, where, section)
    if "weights" in given:
        _weights(checked.weights, where, section)
    return checked


def _dataset(name: str, where: str, section: str) -> None:
    if name not in config.DATASETS and not (name.startswith("folder:") and len(name) > 7):
        allowed = (*config.DATASETS, "folder:PATH")
        raise DefinitionError(
            f"{where}: {section}.dataset: found {name!r}{suggestion(name, allowed)}; "
            f"allowed: {', '.join(allowed)}"
        )


def _weights(name: str, where: str, section: str) -> None:
    if name not in ("imagenet", "none") and not Path(name).expanduser().is_file():
        raise DefinitionError(
            f"{where}: {section}.weights: found {name!r}, and there is no such file"
            f"{suggestion(name, ('imagenet', 'none'))}; allowed: imagenet, none, or a file's path"
        )


def parameters(
    tables: Mapping[str, Any], fixed: Mapping[str, Any], where: str
) -> tuple[space.Parameter, ...]:
    """Check ``[space]`` and give its parameters, each after those its condition names."""
    for option in tables:
        if option in config.STUDY_WIDE:
            raise DefinitionError(
                f"{where}: space.{option}: cannot be searched, since it decides what accuracy means; "
                "fix it in [train]"
            )
    known(tables, config.SEARCHABLE, where, "space")
    found = [_parameter(option, given, where) for option, given in tables.items()]
    values = {name: (value,) for name, value in Config.model_validate(dict(fixed)).model_dump().items()}
    searched = {p.name: p for p in found}
    for parameter in found:
        _condition(parameter, searched, values, where)
    try:
        return space.ordered(found)
    except ValueError as error:
        raise DefinitionError(f"{where}: space: conditions go round in a circle: {error}") from error


def _parameter(option: str, given: Any, where: str) -> space.Parameter:
    key = f"space.{option}"
    if isinstance(given, list):
        given = {"choices": given}
    if not isinstance(given, Mapping):
        raise DefinitionError(
            f"{where}: {key}: want a list or {{ low = ..., high = ... }}, found {given!r}; "
            f"to fix it, put it into [train]"
        )
    kind = space.kind_of(option)
    if "choices" in given:
        choices = record(space.Choices, given, where, key)
        for value in choices.choices:
            options({option: value}, where, "space")
        if len(set(map(repr, choices.choices))) < len(choices.choices):
            raise DefinitionError(f"{where}: {key}: a value is listed twice: {list(choices.choices)}")
        return space.Parameter(name=option, kind="choice", values=choices)
    if kind == "choice":
        raise DefinitionError(f"{where}: {key}: want a list of values, found {dict(given)!r}")
    values = record(space.Range, given, where, key)
    _range(values, option, kind, where)
    return space.Parameter(name=option, kind=kind, values=values)


def _range(values: space.Range, option: str, kind: str, where: str) -> None:
    key = f"space.{option}"
    whole = [v for v in (values.low, values.high, values.step) if v is not None]
    if values.low > values.high:
        raise DefinitionError(f"{where}: {key}: low {values.low} is above high {values.high}")
    if kind == "int" and not all(isinstance(v, int) for v in whole):
        raise DefinitionError(f"{where}: {key}: want whole numbers, found {', '.join(map(str, whole))}")
    if values.log and values.low <= 0:
        raise DefinitionError(f"{where}: {key}: log wants low above 0, found {values.low}")
    if values.log and values.step is not None:
        raise DefinitionError(f"{where}: {key}: log and step exclude each other; keep one")
    if values.step is not None and values.step <= 0:
        raise DefinitionError(f"{where}: {key}: step must be above 0, found {values.step}")
    for bound in (values.low, values.high):
        options({option: bound}, where, "space")


def _condition(
    parameter: space.Parameter,
    searched: Mapping[str, space.Parameter],
    fixed: Mapping[str, tuple[Any, ...]],
    where: str,
) -> None:
    """Check that what a parameter hangs on exists, and can have the values named."""
    key = f"space.{parameter.name}"
    for other, wanted in parameter.condition().items():
        if other not in fixed or other in config.STUDY_WIDE:
            names = sorted(searched.keys() - {parameter.name})
            raise DefinitionError(
                f"{where}: {key}.when: '{other}' is not searched{suggestion(other, names)}; "
                f"searched: {', '.join(names)}"
            )
        spread = searched[other].values if other in searched else None
        if isinstance(spread, space.Range):
            raise DefinitionError(f"{where}: {key}.when: {other} is a range; want an option with a list")
        possible = spread.choices if spread is not None else fixed[other]
        explicit = parameter.values.when.get(other)
        for value in explicit if isinstance(explicit, list) else [explicit]:
            if explicit is not None and other in searched and value not in possible:
                raise DefinitionError(
                    f"{where}: {key}.when: {other} is never {value!r}; it is one of "
                    f"{', '.join(map(str, possible))}"
                )
        users = config.USED_BY.get(parameter.name)
        if users and users[0] == other and not set(possible) & set(wanted):
            raise DefinitionError(
                f"{where}: {key}: {other} '{possible[0]}' has no {parameter.name}; "
                f"it is for {', '.join(users[1])}; leave it out"
            )


def models(possible: Mapping[str, tuple[Any, ...]], where: str) -> None:
    """Check the models a study can train, given the possible values of the options they hang on.

    Imports torch and torchvision, which takes seconds.
    """
    for name in possible["model"]:
        if name not in catalog.models():
            raise DefinitionError(
                f"{where}: model: torchvision has no classification model {name!r}"
                f"{suggestion(name, catalog.models())}; some it has: alexnet, vgg16, resnet18, "
                "resnet50, mobilenet_v3_small, efficientnet_b0, vit_b_16"
            )
        if name in possible["dropout"] and not catalog.has_dropout(name):
            raise DefinitionError(
                f"{where}: dropout: model '{name}' has no dropout; leave it out, or search it "
                'with when = { model = "..." } for a model that has'
            )
        if "imagenet" in possible["weights"] and not catalog.has_imagenet(name):
            raise DefinitionError(f"{where}: weights: model '{name}' has no ImageNet weights; use none")
        for size in possible["image_size"]:
            if reason := catalog.too_small(name, size):
                raise DefinitionError(
                    f"{where}: image_size: model '{name}' does not take {size} x {size} pixels ({reason})"
                )


def schemas() -> dict[str, dict[str, Any]]:
    """Give the JSON Schema of each option's value, by the option's name."""
    defaults = Config().model_dump()
    return {
        name: TypeAdapter(field.rebuild_annotation()).json_schema()
        | ({"description": field.description} if field.description else {})
        | {"default": defaults[name]}
        for name, field in Config.model_fields.items()
    }
