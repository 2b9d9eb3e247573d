"""The options of a study file, from the models that check them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs.generator.markdown import as_markdown, code, page
from hpo.study.aliases import SEARCH_ALIASES, TRAIN_ALIASES
from hpo.study.checks import describe_schema, field_schema
from hpo.study.search_options import Pruner, Sampler, Search
from hpo.training.config import STUDY_WIDE, USED_BY, Config
from hpo.training.custom_config import CustomConfig

# Headings of the options of [train], each with the first option below it. The order is that of ``Config``.
TRAIN_GROUPS = {
    "Data": "dataset",
    "Augmentation": "augmentation",
    "Computing": "precision",
    "Model": "model",
    "Loss and optimizer": "loss",
    "Schedule and length": "schedule",
}
NONE: Mapping[str, str] = {}


def train_options() -> str:
    """Return the options of ``[train]``, by heading."""
    return page(*_train_sections())


def custom_options() -> str:
    """Return the options of ``[train]`` that hpo knows in a study with a custom objective."""
    return _options(CustomConfig, "custom")


def search_options() -> str:
    """Return the options of ``[search]``."""
    return _options(Search, "search", SEARCH_ALIASES)


def sampler_options() -> str:
    """Return the options of ``[search.sampler]``."""
    return _options(Sampler, "sampler")


def pruner_options() -> str:
    """Return the options of ``[search.pruner]``."""
    return _options(Pruner, "pruner")


def _train_sections() -> Iterator[str]:
    first = {option: heading for heading, option in TRAIN_GROUPS.items()}
    for name in Config.model_fields:
        if name in first:
            yield f"### {first[name]}"
        yield _option(name, Config, "train", TRAIN_ALIASES)


def _options(model: type[BaseModel], section: str, aliases: Mapping[str, str] = NONE) -> str:
    return page(*(_option(name, model, section, aliases) for name in model.model_fields))


def _option(name: str, model: type[BaseModel], section: str, aliases: Mapping[str, str] = NONE) -> str:
    """Return an option's heading, which links lead to, its facts and its meaning."""
    schema = field_schema(model.model_fields[name])
    facts = [_allowed(schema), _default(schema, model.model_fields[name])]
    if model is Config:
        facts += ["fixed for the study"] if name in STUDY_WIDE else []
        facts += _condition(name)
    others = [code(alias) for alias, option in aliases.items() if option == name]
    facts += [f"also called {', '.join(others)}"] if others else []
    return page(
        f"#### {code(name)} {{#{section}-{name}}}",
        f"{' · '.join(filter(None, facts))}\n{{: .facts }}",
        as_markdown(schema["description"]),
    ).rstrip()


def _allowed(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(code(f'"{each}"') for each in schema["enum"])
    if "const" in schema:
        return code(f'"{schema["const"]}"')
    if "pattern" in schema:
        return "a string"
    if "properties" in schema:
        return "a name or a table"
    # The bound of what a seed or a size can be says nothing to a reader.
    return describe_schema({key: each for key, each in schema.items() if each != 2**31})


def _default(schema: Mapping[str, Any], field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if not isinstance(schema.get("default"), bool | int | float | str):
        return ""  # the description says what holds without it
    return f"default {code(json.dumps(schema['default']))}"


def _condition(name: str) -> list[str]:
    if name not in USED_BY:
        return []
    other, values = USED_BY[name]
    return [f"used with {code(other)} {', '.join(map(code, values))}"]
