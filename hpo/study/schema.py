"""The JSON Schema of a study file, for editors that check and complete TOML."""

from collections.abc import Mapping
from typing import Any

from hpo.study import checks
from hpo.study.definition import Pruner, Sampler, Search
from hpo.training import catalog, config

SITE = {"type": "string", "description": "where the original ran it"}


def study_file_schema() -> dict[str, Any]:
    """Give the schema of a whole study file; imports torchvision, for the models' names.

    An objective of one's own in [train] frees the names of all options but a few.
    """
    frees = {"properties": {"train": {"required": ["objective"]}}, "required": ["train"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {"when": _when_schema(_searchable_schemas())},
        "title": "hpo study file",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {
                "type": "string",
                "pattern": r"^[^-\s/]([^/\x00-\x1f]{0,98}[^\s/])?$",
                "description": "the study's name in the store; left out: the file's",
            },
            "train": {"type": "object", "description": "options that are fixed"},
            "space": {"type": "object", "description": "options that are searched"},
            "search": _search_schema(),
            "points": {
                "type": "array",
                "description": "settings to run exactly once each",
                "items": {"type": "object"},
            },
        },
        "if": frees,
        "then": {"properties": _custom_properties()},
        "else": {"properties": _builtin_properties()},
    }


def _builtin_properties() -> dict[str, Any]:
    values = _searchable_schemas()
    point = _object_schema({**values, "site": SITE}, "one setting; what it leaves out comes from [train]")
    return {
        "train": _object_schema(_option_schemas(), "options that are fixed"),
        "space": _object_schema(
            {k: _space_entry_schema(v) for k, v in values.items()}, "options that are searched"
        ),
        "points": {"items": point},
    }


def _custom_properties() -> dict[str, Any]:
    free = {"additionalProperties": {"type": ["number", "string", "boolean"]}}
    known = checks.option_schemas(config.CUSTOM_OPTIONS)
    return {"train": _object_schema(known, "options that are fixed") | free, "points": {"items": free}}


def _option_schemas() -> dict[str, Any]:
    options = checks.option_schemas(config.BUILT_IN_OPTIONS)
    options["model"]["enum"] = list(catalog.model_names())
    options["dataset"]["pattern"] = f"^({'|'.join(config.DATASETS)}|folder:.+)$"
    return options


def _searchable_schemas() -> dict[str, Any]:
    options = _option_schemas()
    return {name: _without(options[name], "default") for name in config.SEARCHABLE}


def _object_schema(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": dict(properties),
    }


def _without(schema: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: part for key, part in schema.items() if key not in keys}


def _space_entry_schema(option: Mapping[str, Any]) -> dict[str, Any]:
    """Give what [space] may say of an option: a list, choices with a condition, or a range."""
    value = _without(option, "description")
    when = {"$ref": "#/$defs/when"}
    choices = _object_schema({"choices": _array_schema(value), "when": when}, "a list with a condition")
    forms = [_array_schema(value), choices | {"required": ["choices"]}]
    if value["type"] in ("number", "integer"):
        step = {"type": value["type"], "exclusiveMinimum": 0}
        properties = {"low": value, "high": value, "log": {"type": "boolean"}, "step": step, "when": when}
        forms.append(
            _object_schema(properties, "all values from low to high") | {"required": ["low", "high"]}
        )
    return {"anyOf": forms} | _without(option, *value)


def _when_schema(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    values = {name: {"anyOf": [option, _array_schema(option)]} for name, option in options.items()}
    return _object_schema(values, "values of other options under which it is searched")


def _array_schema(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}


def _search_schema() -> dict[str, Any]:
    properties = {name: checks.field_schema(field) for name, field in Search.model_fields.items()}
    properties["start_from"]["default"] = []  # JSON knows no tuples
    for key, kind in (("sampler", Sampler), ("pruner", Pruner)):
        table = kind.model_json_schema()
        properties[key] = {"anyOf": [table["properties"]["name"], table]}
    return _object_schema(properties, "how much is searched, and how")
