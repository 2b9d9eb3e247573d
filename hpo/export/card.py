"""The model card of an exported model: Markdown below a YAML block, as Hugging Face reads it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hpo.export.predict import Description

MAX_CLASS_NAMES = 20  # class names, at most; labels.txt has them all

# The names of published data sets on Hugging Face, for its links.
HUB_NAMES = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
}

# A safetensors file is a header's length, the header as JSON, and the tensors' bytes.
TENSORS_CODE = (
    '{k: torch.frombuffer(raw, dtype=getattr(torch, types[v["dtype"]]), count=math.prod(v["shape"]), '
    'offset=start + v["data_offsets"][0]).reshape(v["shape"]) '
    'for k, v in json.loads(raw[8:start]).items() if k[0] != "_"}'
)
LOAD_CODE = f"model.load_state_dict({TENSORS_CODE})"

# MNASNet refuses a state dict that names no version, as one from such a file.
COPY_CODE = f"for name, tensor in {TENSORS_CODE}.items(): model.state_dict()[name].copy_(tensor)"

LOADER_TEMPLATE = """```python
import json, math, PIL.Image, PIL.ImageOps, torch, torchvision
raw = bytearray(open("model.safetensors", "rb").read())
start, types = 8 + int.from_bytes(raw[:8], "little"), {{"F32": "float32", "I64": "int64"}}
model = torchvision.models.get_model({arguments}).eval()
{loading}
image = PIL.ImageOps.exif_transpose(PIL.Image.open("image.png"))
image = image.convert("I").point(lambda grey: grey / 256) if image.mode[:4] == "I;16" else image
prepare = torchvision.transforms.Compose([{steps}])
probabilities = model(prepare(image.convert("RGB"))[None])[0].softmax(0)
print(open("labels.txt", encoding="utf-8").read().splitlines()[probabilities.argmax()])
```"""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How good an exported model is, measured how, and what it took: ``metrics.json``."""

    study: str
    trial: int
    state: str  # the trial's
    accuracy: float  # of these weights, a fraction
    split: str  # that it was measured on: valid or test
    images: int  # in that split
    note: str  # on that split, for people
    optimistic: bool  # chosen on the test split
    epoch: int  # that the weights are of
    epochs: int  # that were run
    accuracies: Sequence[float]  # after each epoch; of ``hpo finish`` after the last alone
    wall_time_seconds: float | None
    epoch_seconds: Sequence[float] | None
    hardware: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What a model was trained on, and what was tried of it."""

    labels: Sequence[str]
    images: Mapping[str, int]  # per split
    skipped: int  # files that were left out as unreadable
    params: Mapping[str, Any]  # what the study searched or listed, as this trial had it


def model_card(description: Description, metrics: Metrics, trained: TrainingFacts) -> str:
    """Give the card."""
    block = yaml.safe_dump(_metadata(description, metrics), sort_keys=False, allow_unicode=True)
    settings = description.settings
    how = "trained from scratch" if settings.get("weights") == "none" else "fine-tuned"
    marks = dict.fromkeys(trained.params, "tried")
    rows = [(name, value, marks.get(name, "")) for name, value in settings.items() if value is not None]
    sections = [
        f"---\n{block}---",
        f"# {_escape(description.model)} on {_escape(settings['dataset'])}",
        f"Tells images of {len(trained.labels)} classes apart: trial {metrics.trial} of the study "
        f"{_escape(metrics.study)}, {how} and chosen with hpo.",
        "## Use it",
        "With hpo: `hpo predict FOLDER image.png`. Without it, in this folder:",
        _loader_code(description),
        "## How good it is",
        _table(("what", "value"), _results(metrics)),
        "## Data",
        _data(description, trained),
        "## Preprocessing",
        _preprocessing(description),
        "## Settings",
        "Every option of its training; what the study tried values of is marked.",
        _table(("option", "value", ""), rows),
    ]
    return "\n\n".join(sections) + "\n"


def _metadata(description: Description, metrics: Metrics) -> dict[str, Any]:
    dataset = description.settings["dataset"]
    split = {"valid": "validation"}.get(metrics.split, metrics.split)
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": HUB_NAMES.get(dataset, "images"), "split": split},
        "metrics": [{"type": "accuracy", "value": metrics.accuracy, "name": f"Accuracy {metrics.note}"}],
    }
    return {
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "torchvision", description.model, "hpo"],
        **({"datasets": [HUB_NAMES[dataset]]} if dataset in HUB_NAMES else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": f"{metrics.study}-{metrics.trial}", "results": [result]}],
    }


def _results(metrics: Metrics) -> Iterable[tuple[str, Any]]:
    yield "accuracy", f"{metrics.accuracy:.4f} {metrics.note} ({metrics.images} images)"
    if metrics.state != "complete":
        yield "trial", f"{metrics.state}: it did not run all its epochs"
    once = len(metrics.accuracies) < metrics.epochs
    yield "epoch", f"{metrics.epoch}, the {'last' if once else 'best'} of {metrics.epochs}"
    if metrics.wall_time_seconds is not None:
        yield "training and evaluation", f"{metrics.wall_time_seconds:.0f} seconds"
    yield "hardware", metrics.hardware.get("device", "not known")
    yield "torch", metrics.hardware.get("torch", "not known")
    yield "study", f"{metrics.study}, trial {metrics.trial}"


def _data(description: Description, trained: TrainingFacts) -> str:
    names = ", ".join(map(_escape, trained.labels[:MAX_CLASS_NAMES]))
    more = len(trained.labels) - MAX_CLASS_NAMES
    counts = ", ".join(f"{count} {name}" for name, count in trained.images.items())
    left_out = f" {trained.skipped} unreadable files were left out." if trained.skipped else ""
    return (
        f"{_escape(description.settings['dataset'])}; images: {counts}.{left_out} Classes: {names}"
        f"{f' and {more} more (labels.txt)' if more > 0 else ''}. "
        "Whatever else an image shows, the answer is one of these."
    )


def _preprocessing(description: Description) -> str:
    seen = description.preprocessing
    steps = [
        "turned upright by its EXIF tag, made RGB without transparency (of 16-bit grey the high byte)",
        f"shorter side to {seen.pixels} pixels (bilinear, antialiased), the middle square cut out",
    ]
    if seen.grey:
        steps.append("made grey, in three equal channels")
    if seen.image_size != seen.pixels:
        steps.append(f"resized to {seen.image_size} by {seen.image_size} pixels, in the same way")
    steps.append(f"divided by 255, less {list(seen.mean)}, divided by {list(seen.std)}, per channel")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _loader_code(description: Description) -> str:
    """Give what loads the model and tells an image's class, in ten lines without hpo."""
    seen = description.preprocessing
    steps = [f"Resize({seen.pixels})", f"CenterCrop({seen.pixels})"]
    if seen.grey:
        steps.append("Grayscale(3)")
    if seen.image_size != seen.pixels:
        steps.append(f"Resize(({seen.image_size}, {seen.image_size}))")
    steps += ["ToTensor()", f"Normalize({list(seen.mean)}, {list(seen.std)})"]
    arguments = [f"{name}={value}" for name, value in description.arguments.items()]
    return LOADER_TEMPLATE.format(
        arguments=", ".join([f'"{description.model}"', *arguments]),
        loading=COPY_CODE if description.model.startswith("mnasnet") else LOAD_CODE,
        steps=", ".join(f"torchvision.transforms.{step}" for step in steps),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(value: Any) -> str:
    """Give a value as one line of text in which Markdown and HTML see nothing of theirs."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(str(value).split()))
