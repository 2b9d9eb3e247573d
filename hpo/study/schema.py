"""The JSON Schema of a study file, for editors that check and complete TOML.

Every rule comes from where the checks take it: the pydantic models, the tables of options, torchvision's
model names and the patterns of the checks. ``tests/study/test_schema_agrees.py`` shows that both agree, and
lists the rules that the schema cannot express.
"""

import inspect
import keyword
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from hpo.study import file
from hpo.study.aliases import SEARCH_ALIASES, TRAIN_ALIASES
from hpo.study.checks import INT64, field_schema
from hpo.study.consistency import LEARNING_SAMPLERS
from hpo.study.definition import TRIAL_ATTRIBUTES
from hpo.study.option_checks import CUSTOM_NAME_PATTERN, custom_value_schema, value_schemas
from hpo.study.overrides import NAMED_TABLES
from hpo.study.points import ALIASES, ATTRIBUTE_PATTERN
from hpo.study.search_options import Search
from hpo.study.space import Choices, FloatStep, IntStep, LogRange, Range
from hpo.study.space_table import has_ranges
from hpo.training import option_tables
from hpo.training.option_tables import OptionTable

Schema = dict[str, Any]

TRAIN = "options that are fixed"
SPACE = "options that are searched"
POINTS = "settings to run exactly once each"
POINT = "one setting; options that it leaves out come from [train]"
WHEN = "values of other options under which it is searched"
ATTRIBUTES = "free facts about the point, which become user attributes of its trial"


def study_file_schema() -> Schema:
    """Return the schema of a whole study file.

    A custom objective in [train] allows option names of its own. Imports torchvision, for the names of its
    models.
    """
    has_objective = {"properties": {"train": {"required": ["objective"]}}, "required": ["train"]}
    built_in, custom = (
        OptionSchemas(options) for options in (option_tables.BUILT_IN_OPTIONS, option_tables.CUSTOM_OPTIONS)
    )
    sections: Schema = {
        "name": {
            "type": "string",
            "pattern": file.NAME_PATTERN,
            "description": "the study's name in the store; left out: the file's",
        },
        "train": {"type": "object", "description": TRAIN},
        "space": {"type": "object", "description": SPACE},
        "search": _search_schema(),
        "points": {"type": "array", "description": POINTS, "items": {"type": "object"}},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {
            "when": built_in.when(),
            "custom_when": custom.when(),
            "attributes": _attributes_schema(),
        },
        "title": "hpo study file",
        "type": "object",
        "additionalProperties": False,
        "properties": {key: sections[key] for key in file.KEYS},
        "if": has_objective,
        "then": {"properties": custom.sections()},
        "else": {"properties": built_in.sections()},
    }


class OptionSchemas:
    """The schemas of all tables that hold options, for one table of options.

    Args:
        options: The built-in options, or those of a custom objective, which has more of any name.

    Attributes:
        is_custom: Whether options of any name are allowed.
        values: The schema of each known option's value, by name.
        searchable: The same for the options that ``[space]`` and points may name, without defaults.
    """

    def __init__(self, options: OptionTable) -> None:
        self.options = options
        self.is_custom = options.options is None
        own = value_schemas(options)
        self.values = own if self.is_custom else own | _alias_schemas(own)
        self.searchable = {
            name: _without(schema, "default")
            for name, schema in self.values.items()
            if TRAIN_ALIASES.get(name, name) not in options.study_wide
        }

    def sections(self) -> Schema:
        """Return the schemas of ``[train]``, ``[space]`` and ``[[points]]``, by key.

        Those of conditions and attributes are references into ``$defs``.
        """
        return {
            "train": self._table(self.values, custom_value_schema(), TRAIN),
            "space": self._space(),
            "points": {"items": self._point()},
        }

    def when(self) -> Schema:
        """Return the schema of a ``when``."""
        known = self.values if self.is_custom else self.searchable
        values = {name: _one_or_several(schema) for name, schema in known.items()}
        return self._table(values, _one_or_several(custom_value_schema()), WHEN)

    def _table(self, values: Schema, other: Schema, description: str) -> Schema:
        """Return a table with these keys; one of a custom objective may have others, too."""
        table = _object_schema(values, description)
        if self.is_custom:
            names = {"pattern": CUSTOM_NAME_PATTERN, "not": {"enum": keyword.kwlist}}
            table |= {"propertyNames": names, "additionalProperties": other}
            table["properties"] |= {name: False for name in self.options.study_wide if name not in values}
        return table

    def _point(self) -> Schema:
        aliases = {name: {"type": "string", "description": f"attributes.{name}"} for name in ALIASES}
        facts = {"attributes": {"$ref": "#/$defs/attributes"}, **aliases}
        table = self._table({**self.searchable, **facts}, custom_value_schema(), POINT)
        used = {
            name: {"properties": {other: {"enum": list(users)}}}
            for name, (other, users) in self.options.used_by.items()
        }
        given_once = {
            name: {"properties": {"attributes": {"properties": {name: False}}}} for name in ALIASES
        }
        return table | {"dependentSchemas": used | given_once}

    def _space(self) -> Schema:
        entries = {
            name: self._entry(TRAIN_ALIASES.get(name, name), schema)
            for name, schema in self.searchable.items()
        }
        table = self._table(entries, self._entry("", custom_value_schema()), SPACE)
        used = {
            name: {"if": _has_no_condition(name, other), "then": _can_be(other, users)}
            for name, (other, users) in self.options.used_by.items()
        }
        return table | ({"dependentSchemas": used} if used else {})

    def _entry(self, name: str, option: Schema) -> Schema:
        """Return what [space] may say of an option: a list, choices with a condition, or a range."""
        value, when = _without(option, "description"), self._when_of(name)
        choices = _object_schema({"choices": _array_schema(value), "when": when}, "a list with a condition")
        forms = [_array_schema(value), choices | {"required": _required(Choices)}]
        if has_ranges(name, self.options):
            forms += [self._range(kind, value, when) for kind in (Range, LogRange)]
        return {"anyOf": forms} | _without(option, *value)

    def _range(self, kind: type[Range] | type[LogRange], value: Schema, when: Schema) -> Schema:
        end = value if "type" in value else {"type": "number"}
        step = IntStep if end["type"] == "integer" else FloatStep
        is_log = kind is LogRange
        above = _without(field_schema(LogRange.model_fields["low"]), "type")
        keys: Schema = {
            "low": {"allOf": [end, above]} if is_log else end,
            "high": end,
            "log": {"const": is_log},
            "step": _storable(field_schema(step.model_fields["step"])),
            "when": when,
        }
        description = "all values from low to high" + ", on a logarithmic scale" * is_log
        table = _object_schema({key: keys[key] for key in kind.model_fields}, description)
        return table | {"required": _required(kind)}

    def _when_of(self, name: str) -> Schema:
        """Return the schema of an option's ``when``: one that names what uses the option names users."""
        if self.is_custom:
            return {"$ref": "#/$defs/custom_when"}
        when: Schema = {"$ref": "#/$defs/when"}
        if name in self.options.used_by:
            other, users = self.options.used_by[name]
            when["properties"] = {other: _one_or_several({"enum": list(users)})}
        return when


def _has_no_condition(name: str, other: str) -> Schema:
    """Match a [space] where option ``name`` has no condition on option ``other``."""
    condition = {"required": ["when"], "properties": {"when": {"required": [other]}}}
    return {"properties": {name: {"not": {"type": "object", **condition}}}}


def _can_be(other: str, users: Sequence[str]) -> Schema:
    """Match a [space] whose list for option ``other``, if there is one, has one of ``users``."""
    has_user = {"contains": {"enum": list(users)}}
    choices = {"type": "object", "properties": {"choices": has_user}}
    return {"properties": {other: {"anyOf": [{"type": "array", **has_user}, choices]}}}


def _search_schema() -> Schema:
    properties = {name: _storable(field_schema(field)) for name, field in Search.model_fields.items()}
    for name in NAMED_TABLES:
        described = properties[name]["description"]
        table = _table_schema(Search.model_fields[name].annotation)  # type: ignore[arg-type]
        properties[name] = {"anyOf": [table["properties"]["name"], table], "description": described}
    properties |= {alias: properties[option] for alias, option in SEARCH_ALIASES.items()}
    learning = {"enum": list(LEARNING_SAMPLERS)}
    sampler = {"anyOf": [learning, {"type": "object", "properties": {"name": learning}}]}
    starts = {
        "if": {"properties": {"start_from": {"minItems": 1}}},
        "then": {"properties": {"sampler": sampler}},
    }
    table = _object_schema(properties, "how much is searched, and how")
    return table | {"dependentSchemas": {"start_from": starts}}


def _table_schema(model: type[BaseModel]) -> Schema:
    """Return the schema of a table whose keys are the fields of a model."""
    fields = {name: _storable(field_schema(field)) for name, field in model.model_fields.items()}
    return _object_schema(fields, inspect.cleandoc(model.__doc__ or ""))


def _alias_schemas(values: Mapping[str, Any]) -> Schema:
    """Return the schemas of the other spellings of options, by name."""
    found = {
        alias: {**_without(values[option], "default"), "description": f"the same as {option}"}
        for alias, option in TRAIN_ALIASES.items()
    }
    return found | {"pretrained": {"type": "boolean", "description": "weights: imagenet, or none"}}


def _storable(schema: Schema) -> Schema:
    """Return the schema with the bounds that the database sets, and with a default that JSON has."""
    if "anyOf" in schema:
        schema = schema | {"anyOf": [_storable(each) for each in schema["anyOf"]]}
    if schema.get("type") == "integer" and not schema.keys() & {"maximum", "exclusiveMaximum"}:
        schema = schema | {"maximum": INT64[1]}
    if isinstance(schema.get("default"), tuple):
        schema = schema | {"default": list(schema["default"])}
    return schema


def _attributes_schema() -> Schema:
    return {
        "type": "object",
        "description": ATTRIBUTES,
        "propertyNames": {"pattern": ATTRIBUTE_PATTERN, "not": {"enum": list(TRIAL_ATTRIBUTES)}},
        "additionalProperties": custom_value_schema(),
    }


def _object_schema(properties: Mapping[str, Any], description: str) -> Schema:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": dict(properties),
    }


def _array_schema(value: Schema) -> Schema:
    return {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}


def _one_or_several(value: Schema) -> Schema:
    return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}]}


def _required(kind: type[Choices] | type[Range] | type[LogRange]) -> list[str]:
    return [name for name, field in kind.model_fields.items() if field.is_required()]


def _without(schema: Schema, *keys: str) -> Schema:
    return {key: part for key, part in schema.items() if key not in keys}
