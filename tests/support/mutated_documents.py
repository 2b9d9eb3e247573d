"""Random changes of study documents, and what the loader and the JSON Schema say of them."""

import contextlib
import copy
import datetime
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema

from hpo.errors import DefinitionError
from hpo.study import checks, file, schema

VALIDATOR = jsonschema.Draft202012Validator(schema.study_file_schema())

CUSTOM = """
name = "custom"
[train]
objective = "package.module:climb"
width = 3
epochs = 4
[space]
depth = [1, 2]
rate = { low = 0.1, high = 10.0, log = true }
layers = { low = 2, high = 8, step = 2, when = { depth = [1, 2] } }
kind = { choices = ["a", "b"], when = { depth = 2 } }
seed = [0, 1]
[search]
trials = 3
[[points]]
depth = 1
rate = 1.0
layers = 4
site = "C"
[[points]]
depth = 1
rate = 1.0
layers = 2
attributes = { room = 3, dark = true }
"""
RICH = """
name = "rich"
[train]
dataset = "digits"
image_size = 32
weights = "none"
[space]
model = ["resnet18", "vgg16"]
optimizer = ["sgd", "adam"]
lr = { low = 1e-4, high = 0.1, log = true }
momentum = { low = 0.0, high = 0.9, step = 0.1, when = { optimizer = "sgd" } }
nesterov = [true, false]
schedule = { choices = ["step", "cosine"], when = { optimizer = ["sgd", "adam"] } }
step_size = { low = 1, high = 5, step = 2 }
batch_size = [8, 16]
[search]
trials = 5
sampler = "gp"
pruner = { name = "median", startup_trials = 2 }
deadline = 2030-01-31T18:00:00Z
start_from = ["older"]
target = 0.9
[[points]]
model = "vgg16"
optimizer = "sgd"
momentum = 0.5
nesterov = true
lr = 0.01
epochs = 2
attributes = { site = "C", run = 3 }
[[points]]
optimizer = "adam"
lr = 0.01
site = "L"
"""
FILES = {path.stem: path.read_text() for path in file.shipped_studies().values()}
FILES |= {"custom": CUSTOM, "rich": RICH}

VALUES = (
    *(0, 1, 2, -1, 8, 16, 32, 1000, 2**31, 2**63 - 1, 2**63, 0.0, 0.1, 0.5, 0.9, 1.0, 1.5, -0.5, 8.0, 1e9),
    *(float("inf"), float("nan"), True, False, "", "x", " x", "-x", "a/b", "sgd", "adam", "step", "cosine"),
    *("resnet18", "vgg16", "ResNet18", "digits", "folder:x", "folder:", "none", "imagenet", "grid", "gp"),
    *("random", "asha", "a.b:c", "a.b", datetime.date(2030, 1, 1), datetime.datetime(2030, 1, 1, 12)),
    *([], [1], [1, 1], [1, 2], [0.1, 0.2], ["sgd"], ["sgd", "sgd"], ["adam"], [True, 1], [[1]], ["step"]),
    *({}, {"low": 1}, {"low": 1, "high": 2}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}),
    *({"low": 1, "high": 2, "step": 1}, {"low": 1, "high": 2, "log": True, "step": 1}, {"choices": [1, 2]}),
    *({"low": 0.1, "high": 0.2, "step": 0.05}, {"low": 8, "high": 64, "step": 8}, {"choices": []}),
    *({"choices": ["sgd"], "when": {"schedule": ["step", "step"]}}, {"name": "grid"}, {"name": "tpe"}),
    *({"choices": [0.5], "when": {"optimizer": "adam"}}, {"site": "C"}, {"a": [1]}, {"epochs": 3}),
)
KEYS = (
    *("lr", "momentum", "optimizer", "nesterov", "gamma", "schedule", "step_size", "batch_size", "model"),
    *("dataset", "precision", "epochs", "seed", "objective", "width", "site", "attributes", "unknown"),
    *("low", "high", "log", "step", "when", "choices", "name", "trials", "replicates", "sampler"),
    *("pruner", "start_from", "_private", "two words", "größe", "hardware", "train", "space", "points"),
    *("imgsz", "pretrained", "n_trials"),
)

IN_ANOTHER_TABLE = (
    r"both fixed in \[train\] and searched in \[space\]|search\.trials is \d+ but \[space\] is empty",
    r"nothing to run: |search\.replicates gives each setting its seeds|sampler 'grid' w",
    r"is not searched, it is always|is a range; want an option|is never |is neither fixed nor searched",
    r"circular conditions|outside of what space\.|is left out, is searched and has no default",
    r"is not defined for mixed images|the same option as|weight_decay is 0, so nothing decays",
)
BEYOND_A_SCHEMA = (
    *IN_ANOTHER_TABLE,
    r"is above high|do not reach high|is too small for",
    r"want a whole number.*found -?[0-9]+\.0$|want a whole number.*found -?[0-9.]+e[+]?[0-9]+$",
    r"want a finite number|(device_hours|attributes\.\w+): want a number of at most 64 bits",
    r"want a date and time .*, found |found \[?\d{4}-\d\d-\d\d",
    r"there is no such file",
    r"name: want 1 to 100 printable characters",
)


def all_paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, each in inner:
        yield from all_paths(each, (*path, key))


def value_at(document: Any, path: Sequence[Any]) -> Any:
    for key in path:
        document = document[key]
    return document


# Changes that violate rules which random changes rarely violate.
CHANGES = (
    *((("space", "optimizer"), value) for value in (["adam"], {"choices": ["adam"]}, ["sgd", "rmsprop"])),
    *((("space",), {"optimizer": [name], "momentum": [0.0, 0.9]}) for name in ("sgd", "adam", "adamw")),
    *((("search", name), value) for name in ("epochs", "keep_weights") for value in (2**63 - 1, 2**63)),
    *((("points", 0, "site"), value) for value in ("L", 3)),
    *((("points", 0, "attributes"), value) for value in ({"site": "C"}, {"hardware": "x"}, {"a b": 1}, {})),
    *((("search", "sampler"), value) for value in ("random", {"name": "qmc"}, {"seed": 1}, "grid")),
)


def mutate(document: dict[str, Any], rng: random.Random) -> None:
    """Make one random change: replace a value, copy one from elsewhere, delete one, or add a key."""
    paths = list(all_paths(document))
    if rng.random() < 0.15:
        (*path, key), value = copy.deepcopy(rng.choice(CHANGES))
        with contextlib.suppress(KeyError, IndexError, TypeError):
            value_at(document, path)[key] = value
        return
    path = rng.choice(paths)
    parent, key = value_at(document, path[:-1]), path[-1]
    how = rng.randrange(5)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
    elif how == 2:
        parent[key] = copy.deepcopy(value_at(document, rng.choice(paths)))
    elif how == 3 and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))


def as_json(node: Any) -> Any:
    """Return a document as an editor sees it: dates are strings."""
    if isinstance(node, dict):
        return {key: as_json(each) for key, each in node.items()}
    if isinstance(node, list):
        return [as_json(each) for each in node]
    return node.isoformat() if isinstance(node, datetime.date) else node


def refusal(document: dict[str, Any]) -> str | None:
    """Return the message with which the loader refuses a document, or None."""
    try:
        checks.check_storable(document, "f.toml")
        file.parse_document({"name": "f", **document}, "f.toml")
    except DefinitionError as error:
        return str(error)
    return None


def is_beyond(message: str, document: dict[str, Any]) -> bool:
    """Return whether the loader refused a document because of a rule that a JSON Schema cannot express."""
    if any(re.search(pattern, message) for pattern in BEYOND_A_SCHEMA):
        return True
    if re.search(r"points\[\d+\].* (is not an option|has it only when)", message):
        return "objective" in document.get("train", {})  # the other tables say which options there are
    if "is listed twice" in message:  # in JSON, true and 1 are not equal
        return "objective" in document.get("train", {})
    if unused := re.match(r"f\.toml: points\[(\d+)\]\.\w+: (\w+) .* has no ", message):
        return unused[2] not in document["points"][int(unused[1]) - 1]  # its value is that of [train]
    if unused := re.match(r"f\.toml: space\.\w+: (\w+) .* has no ", message):
        return unused[1] not in document["space"]
    if "64 bits" in message:  # a schema cannot bound whole numbers alone among values of any type
        return "objective" in document.get("train", {})
    if "want a whole number" in message:  # of a custom objective: both bounds have no fraction
        return "objective" in document.get("train", {}) and ".step:" in message
    return False


def disagreement(document: dict[str, Any]) -> str | None:
    """Return how loader and schema disagree about a document where a schema could agree; None otherwise."""
    message, found = refusal(document), as_json(document)
    is_valid = VALIDATOR.is_valid(found)
    if message is None and not is_valid:
        return f"the schema alone refuses {document}: {[e.message for e in VALIDATOR.iter_errors(found)]}"
    if message is not None and is_valid and not is_beyond(message, document):
        return f"the loader alone refuses {document}: {message}"
    return None
