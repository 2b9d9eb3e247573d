"""The JSON Schema of a study file, for editors that check and complete TOML."""

from collections.abc import Mapping
from typing import Any

from hpo import check, config
from hpo.definition import Pruner, Sampler, Search


def study_file() -> dict[str, Any]:
    """Give the schema of a whole study file."""
    options = check.schemas()
    searchable = {name: options[name] for name in config.SEARCHABLE}
    point = searchable | {"site": {"type": "string", "description": "where the original ran it"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hpo study file",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "minLength": 1, "description": "the study's name in the store"},
            "train": _table(options, "options that are fixed"),
            "space": _table({k: _spread(v) for k, v in searchable.items()}, "options that are searched"),
            "search": _search(),
            "points": {
                "type": "array",
                "description": "settings to run exactly once each",
                "items": _table(point, "one setting; what it leaves out comes from [train]"),
            },
        },
    }


def _table(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": dict(properties),
    }


def _spread(option: Mapping[str, Any]) -> dict[str, Any]:
    """Give the schema of what [space] may say of an option: a list, choices with a when, or a range."""
    value = {key: part for key, part in option.items() if key not in ("default", "description")}
    listed = {"type": "array", "items": value, "minItems": 1}
    when = {"type": "object", "description": "values of other options under which it is searched"}
    forms = [listed, _table({"choices": listed, "when": when}, "a list with a condition")]
    kinds = {value.get("type"), *(form.get("type") for form in value.get("anyOf", ()))}
    if kinds & {"number", "integer"}:
        bound = {"type": "number"}
        numbers = {"low": bound, "high": bound, "step": bound, "log": {"type": "boolean"}, "when": when}
        forms.append(_table(numbers, "a range") | {"required": ["low", "high"]})
    described = {"description": option["description"]} if "description" in option else {}
    return {"anyOf": forms, **described}


def _search() -> dict[str, Any]:
    properties = dict(Search.model_json_schema()["properties"])
    for key, kind in (("sampler", Sampler), ("pruner", Pruner)):
        table = kind.model_json_schema()
        properties[key] = {"anyOf": [table["properties"]["name"], table]}
    return _table(properties, "how much is searched, and how")
