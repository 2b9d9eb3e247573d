"""Checks of a study file's parts; each refuses in one line: where, what was found and what is allowed."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from hpo.errors import DefinitionError, quote_value, suggestion
from hpo.training import catalog, config
from hpo.training.config import Config, OptionTable

Record = TypeVar("Record", bound=BaseModel)


def dotted_key(section: str, key: str) -> str:
    """Give a key with its section in front, in quotes where TOML needs them."""
    bare = re.fullmatch(r"[A-Za-z0-9_-]+", key)
    return f"{section}." * bool(section) + (key if bare else repr(key))


def check_storable(value: Any, where: str, key: str = "") -> None:
    """Refuse, at any depth, what TOML or a terminal can give and no store can hold: inf, nan, 2**63."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            check_storable(each, where, dotted_key(key, name))
    elif isinstance(value, list):
        for index, each in enumerate(value, 1):
            check_storable(each, where, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise DefinitionError(f"{where}: {key}: want a finite number, found {value}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise DefinitionError(f"{where}: {key}: want a number of at most 64 bits, found a larger one")
    elif isinstance(value, str) and not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise DefinitionError(f"{where}: {key}: want a text in UTF-8, found {quote_value(value)}")


def require_table(value: Any, where: str, key: str) -> Mapping[str, Any]:
    """Give ``value`` if it is a table."""
    if not isinstance(value, Mapping):
        raise DefinitionError(f"{where}: {key}: want a table, found {quote_value(value)}")
    return value


def check_keys(given: Iterable[str], allowed: Iterable[str] | None, where: str, section: str) -> None:
    """Refuse a key that is not among those allowed; with None, every key is."""
    if allowed is None:
        return
    names = sorted(allowed)
    for key in given:
        if key not in names:
            raise DefinitionError(
                f"{where}: {dotted_key(section, key)} is not an option{suggestion(key, names) or ';'} "
                f"options: {', '.join(names)}"
            )


def validate_record(kind: type[Record], given: Mapping[str, Any], where: str, section: str) -> Record:
    """Give ``given`` as a checked record, and tables in it likewise."""
    check_keys(given, kind.model_fields, where, section)
    checked = {}
    for name, each in given.items():
        field, key = kind.model_fields[name], f"{section}.{name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            checked[name] = validate_record(inner, require_table(each, where, key), where, key)
        else:
            checked[name] = _validate_field(kind, name, each, where, key)
    return kind.model_validate(checked)


def _validate_field(kind: type[BaseModel], name: str, value: Any, where: str, key: str) -> Any:
    """Give one field's value as its type; the record has a default for every other."""
    try:
        return _field_adapter(kind, name).validate_python(value, strict=True)
    except ValidationError:
        _raise_invalid_value(kind.model_fields[name], value, where, key)


@functools.cache
def _field_adapter(kind: type[BaseModel], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(kind.model_fields[name].rebuild_annotation())


def _raise_invalid_value(field: FieldInfo, found: Any, where: str, key: str) -> NoReturn:
    schema = field_schema(field)
    if "enum" in schema:
        names = schema["enum"]
        raise DefinitionError(
            f"{where}: {key}: found {quote_value(found)}{suggestion(str(found), names) or ';'} "
            f"allowed: {', '.join(names)}"
        )
    raise DefinitionError(f"{where}: {key}: want {_describe_schema(schema)}, found {quote_value(found)}")


def _describe_schema(schema: Mapping[str, Any]) -> str:
    """Say in words what a JSON Schema of one value allows."""
    kinds = {"integer": "a whole number", "number": "a number", "string": "a text", "array": "a list"}
    kinds |= {"boolean": "true or false"}
    kinds |= {"date-time": "a date and time such as 2030-01-31T18:00:00Z, without quotes"}
    if "pattern" in schema:
        return str(schema["description"])
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    limits |= {"exclusiveMaximum": "below", "minLength": "of a length of at least"}
    bounds = [f"{words} {schema[key]}" for key, words in limits.items() if key in schema]
    return ", ".join(filter(None, [kinds[schema.get("format", schema["type"])], " and ".join(bounds)]))


def validate_options(
    given: Mapping[str, Any], where: str, section: str, words: OptionTable
) -> dict[str, Any]:
    """Check the options that ``[train]`` or a point names, and give them as the options' types."""
    check_keys(given, words.options, where, section)
    return {
        name: validate_option(name, each, where, dotted_key(section, name), words)
        for name, each in given.items()
    }


def validate_option(name: str, value: Any, where: str, key: str, words: OptionTable) -> Any:
    """Check one value of an option, and give it as the option's type; ``key`` names it in errors."""
    if name not in words.config_class.model_fields:
        return _validate_custom_option(name, value, where, key)
    checked = _validate_field(words.config_class, name, value, where, key)
    if words is config.BUILT_IN_OPTIONS and name in _NAME_CHECKS:
        _NAME_CHECKS[name](checked, where, key)
    return checked


def _validate_custom_option(name: str, value: Any, where: str, key: str) -> Any:
    """Check a value of an option that only a person's own objective knows."""
    if not name.isidentifier() or name.startswith("_"):
        raise DefinitionError(f"{where}: {key}: want a name that Python takes, found {quote_value(name)}")
    if not isinstance(value, bool | int | float | str):
        raise DefinitionError(
            f"{where}: {key}: want a number, a text, true or false, found {quote_value(value)}"
        )
    return value


def _check_dataset(name: str, where: str, key: str) -> None:
    folder = name.startswith("folder:") and name != "folder:"
    if name not in config.DATASETS and not folder:
        allowed = (*config.DATASETS, "folder:PATH")
        raise DefinitionError(
            f"{where}: {key}: found {quote_value(name)}{suggestion(name, allowed) or ';'} "
            f"allowed: {', '.join(allowed)}"
        )


def _check_model_name(name: str, where: str, key: str) -> None:
    if name not in catalog.SMALLEST_IMAGE_SIZES and name not in catalog.model_names():
        raise DefinitionError(
            f"{where}: {key}: torchvision has no classification model {quote_value(name)}"
            f"{suggestion(name, catalog.model_names()) or ';'} some it has: alexnet, vgg16, resnet18, "
            "resnet50, mobilenet_v3_small, efficientnet_b0, vit_b_16"
        )


def _check_weights(name: str, where: str, key: str) -> None:
    if name not in ("imagenet", "none") and not is_file(name):
        raise DefinitionError(
            f"{where}: {key}: found {quote_value(name)}, and there is no such file"
            f"{suggestion(name, ('imagenet', 'none')) or ';'} allowed: imagenet, none, or a file's path"
        )


_NAME_CHECKS: dict[str, Callable[[str, str, str], None]] = {
    "dataset": _check_dataset,
    "model": _check_model_name,
    "weights": _check_weights,
}


def is_file(path: str) -> bool:
    """Tell whether there is a file of this name; one below a home folder that is nobody's is not."""
    try:
        return Path(path).expanduser().is_file()
    except (RuntimeError, OSError):
        return False


def unused_option_message(name: str, *values: Any) -> str:
    """Say that these values of the option which uses option ``name`` do not use it, and which do."""
    other, users = config.USED_BY[name]
    found = " or ".join(map(quote_value, values))
    return f"{other} {found} has no {name}; it is for {', '.join(users)}; leave it out"


def check_trainable(settings: Config, where: str, section: str) -> None:
    """Check that the model takes what it is told; where that is not known it asks torch, for seconds."""
    model, size = settings.model, settings.image_size
    if settings.dropout is None and catalog.is_known_to_train(model, size, settings.batch_size):
        return
    if settings.dropout is not None and not catalog.has_dropout(model):
        raise DefinitionError(
            f"{where}: {dotted_key(section, 'dropout')}: model '{model}' has no dropout; leave it out, or "
            'search it with when = { model = "..." } for a model that has'
        )
    if settings.weights == "imagenet" and not catalog.has_imagenet_weights(model):
        raise DefinitionError(
            f"{where}: {dotted_key(section, 'weights')}: model '{model}' has no ImageNet weights; use 'none'"
        )
    if reason := catalog.image_size_problem(model, size):
        fits = catalog.first_accepted_image_size(model)
        instead = f"; {fits} would do" if fits else ""
        raise DefinitionError(
            f"{where}: {dotted_key(section, 'image_size')}: model '{model}' does not take {size} x {size} "
            f"pixels ({reason}){instead}"
        )
    if settings.batch_size == 1 and (reason := catalog.image_size_problem(model, size, 1)):
        raise DefinitionError(
            f"{where}: {dotted_key(section, 'batch_size')}: model '{model}' does not train on one image of "
            f"{size} x {size} pixels at a time ({reason}); use 2 or more"
        )


def option_schemas(words: OptionTable) -> dict[str, dict[str, Any]]:
    """Give the JSON Schema of each option's value, by the option's name."""
    return {name: field_schema(field) for name, field in words.config_class.model_fields.items()}


def field_schema(field: FieldInfo) -> dict[str, Any]:
    """Give the JSON Schema of one option's value, with its meaning and default."""
    schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    # TOML has no null: what may be None is left out, or has the first of the types.
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    described = {} if field.description is None else {"description": field.description}
    default = {} if field.default is None or field.is_required() else {"default": field.default}
    return schema | described | default
