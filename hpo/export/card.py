"""The model card of an exported model: a YAML block, then Markdown, in the format of Hugging Face."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import yaml

from hpo.analysis import class_tables, guessing
from hpo.analysis.formatting import describe_device, format_objective
from hpo.analysis.sections import Table
from hpo.export import sheet
from hpo.export.predict import Description, Preprocessing
from hpo.training import catalog, image_files, libraries
from hpo.training.config import MAX_PIXELS
from hpo.training.confusion import Confusion
from hpo.training.data_facts import SPLIT_WORDS, DataFacts
from hpo.training.metric import METRICS

MAX_CLASS_NAMES = 20  # that the card lists; labels.txt has all of them

# Names of published data sets on Hugging Face, for links.
HUB_NAMES = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "food101": "ethz/food101",
    "imagenette": "frgfm/imagenette",
}

# A safetensors file contains the length of the header, the header as JSON, and the bytes of the tensors.
TENSORS_CODE = (
    '{k: torch.frombuffer(raw, dtype=getattr(torch, types[v["dtype"]]), count=math.prod(v["shape"]), '
    'offset=start + v["data_offsets"][0]).reshape(v["shape"]) '
    'for k, v in json.loads(raw[8:start]).items() if k[0] != "_"}'
)
LOAD_CODE = f"model.load_state_dict({TENSORS_CODE})"

# Types of tensors in torchvision's models, and others that a network of the user's own may have.
TYPES = {"F32": "float32", "I64": "int64"}
OTHER_TYPES = {"F64": "float64", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "I16": "int16"} | {
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}

# MNASNet refuses a state dict without a version, and such a file cannot hold one.
COPY_CODE = f"for name, tensor in {TENSORS_CODE}.items(): model.state_dict()[name].copy_(tensor)"

LOADER_TEMPLATE = """```python
import {modules}
raw = bytearray(open("model.safetensors", "rb").read())
start, types = 8 + int.from_bytes(raw[:8], "little"), {types}
model = {builder}({arguments}).eval()
{loading}
{limit}image = PIL.ImageOps.exif_transpose(PIL.Image.open("image.png", formats={formats}))
image = image.convert("I").point(lambda grey: grey / 256) if image.mode[:4] == "I;16" else image
{background}prepare = torchvision.transforms.Compose([{steps}])
probabilities = model(prepare(image.convert("RGB"))[None])[0].softmax(0)
print(open("labels.txt", encoding="utf-8").read().splitlines()[probabilities.argmax()])
```"""

# PIL refuses an image of more than twice this number.
LIMIT_CODE = "PIL.Image.MAX_IMAGE_PIXELS = {} // 2\n"
# Puts transparent pixels on a colour. 16-bit grey is opaque: it has become "I" before.
BACKGROUND_CODE = (
    'image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "{color}"), '
    'image.convert("RGBA")) if image.has_transparency_data and image.mode != "I" else image\n'
)


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How good an exported model is, how that was measured, and what it cost."""

    study: str
    trial: int
    state: str  # of the trial
    metric: str  # one of ``METRICS``
    value: float  # of these weights
    split: str  # that it was measured on: valid or test
    images: int  # in that split
    baseline: float | None = None  # the value that guessing gives; None: not known
    objectives: Mapping[str, float | None] | None = None  # of the trial, if the study has several
    note: str  # on the split, for readers
    chosen: str  # why this trial, for readers
    optimistic: bool  # the trial was chosen on the test split
    epoch: int  # after which the weights were saved
    epochs: int  # that the trial ran
    values: Sequence[float]  # after each epoch; for ``hpo finish`` only after the last
    wall_time_seconds: float | None  # training and evaluation; None: not known
    epoch_seconds: Sequence[float] | None  # of each epoch; None: not known
    hardware: Mapping[str, Any]  # without the name of the host; empty if not known

    def document(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``: all fields, and ``accuracy`` where that is the metric.

        With one objective there is no ``objectives``.
        """
        fields = asdict(self)
        if self.objectives is None:
            del fields["objectives"]
        if self.metric != "accuracy":
            return fields
        return fields | {"accuracy": self.value, "accuracies": list(self.values)}

    @property
    def label(self) -> str:
        """The name of the metric in words."""
        return METRICS[self.metric].label


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """The data that a model was trained on, and the parameters that its study varied."""

    labels: Sequence[str]
    images: Mapping[str, int]  # per split
    skipped: int  # unreadable files that were left out
    params: Mapping[str, Any]  # searched or listed by the study, with this trial's values
    facts: DataFacts | None = None  # on the images of each class; None: not known
    confusion: Confusion | None = None  # of the evaluation that chose the weights; None: not known


def model_card(description: Description, metrics: Metrics, trained: TrainingFacts) -> str:
    """Return the model card as text: a YAML block, then Markdown in which names are escaped.

    Args:
        description: The content of ``config.json``.
        metrics: How good the model is.
        trained: Facts on the data and on the study's parameters.
    """
    block = yaml.safe_dump(_card_metadata(description, metrics), sort_keys=False, allow_unicode=True)
    settings = description.settings
    how = "trained from scratch" if settings.get("weights") == "none" else "fine-tuned"
    needed = ""
    if catalog.is_user_network(description.model):
        how = "trained"  # its function may load weights
        needed = (
            f" Either way Python must find the function `{description.model}`, which builds the network: "
            "this folder does not contain its code. Put the folder that does on PYTHONPATH."
        )
    marks = dict.fromkeys(trained.params, "varied")
    rows = [(name, value, marks.get(name, "")) for name, value in settings.items() if value is not None]
    sections = [
        f"---\n{block}---",
        f"# {_escape(description.model)} on {_escape(settings['dataset'])}",
        f"An image classifier for {len(trained.labels)} classes: trial {metrics.trial} of the study "
        f"{_escape(metrics.study)}, {how} and chosen with hpo.",
        "## Use it",
        f"With hpo: `hpo predict FOLDER image.png`.{needed} Without hpo, in this folder:",
        _loader_code(description),
        "## How good it is",
        _table(("what", "value"), _results(metrics)),
        *(_classes(trained.confusion) if trained.confusion is not None else ()),
        "## Data",
        _data(description, trained),
        *(_images(trained.facts) if trained.facts is not None else ()),
        "## Preprocessing",
        _preprocessing(description),
        "## Settings",
        "Every training option. Options that the study varied are marked.",
        _table(("option", "value", ""), rows),
    ]
    return "\n\n".join(sections) + "\n"


def _card_metadata(description: Description, metrics: Metrics) -> dict[str, Any]:
    dataset = description.settings["dataset"]
    split = {"valid": "validation"}.get(metrics.split, metrics.split)
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": HUB_NAMES.get(dataset, "images"), "split": split},
        "metrics": [
            {
                "type": metrics.metric,
                "value": metrics.value,
                "name": f"{metrics.label.capitalize()} {metrics.note}",
            }
        ],
    }
    is_own = catalog.is_user_network(description.model)
    library = [] if is_own else [libraries.name_of(description.model)]
    return {
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", *library, description.model, "hpo"],
        **({"datasets": [HUB_NAMES[dataset]]} if dataset in HUB_NAMES else {}),
        "metrics": [metrics.metric],
        "model-index": [{"name": f"{metrics.study}-{metrics.trial}", "results": [result]}],
    }


def _results(metrics: Metrics) -> Iterable[tuple[str, Any]]:
    yield metrics.label, f"{metrics.value:.4f} {metrics.note} ({metrics.images} images)"
    if metrics.baseline is not None:
        gives = guessing.describe_guessing(METRICS[metrics.metric], metrics.baseline)
        yield "baseline", baseline_doubt(metrics) or gives
    for name, value in (metrics.objectives or {}).items():
        if name != metrics.metric and value is not None:
            yield name.replace("_", " "), format_objective(name, value)
    if metrics.state != "complete":
        yield "trial", f"{metrics.state}: it did not run all of its epochs"
    once = len(metrics.values) < metrics.epochs
    yield "epoch", f"{metrics.epoch}, the {'last' if once else 'best'} of {metrics.epochs}"
    if metrics.wall_time_seconds is not None:
        yield "training and evaluation", f"{metrics.wall_time_seconds:.0f} seconds"
    yield "hardware", describe_device({"device": "unknown", **metrics.hardware})
    yield "torch", metrics.hardware.get("torch", "unknown")
    yield "study", f"{metrics.study}, trial {metrics.trial}"
    if metrics.chosen:
        yield "chosen", metrics.chosen


def baseline_doubt(metrics: Metrics) -> str:
    """Return a phrase if the model does not beat guessing; else ""."""
    metric = METRICS[metrics.metric]
    return guessing.compare_baseline(metric, metrics.value, metrics.baseline, metrics.images)


def _data(description: Description, trained: TrainingFacts) -> str:
    names = ", ".join(map(_escape, trained.labels[:MAX_CLASS_NAMES]))
    more = len(trained.labels) - MAX_CLASS_NAMES
    counts = ", ".join(f"{count} {name}" for name, count in trained.images.items())
    left_out = f" {trained.skipped} unreadable files were left out." if trained.skipped else ""
    return (
        f"{_escape(description.settings['dataset'])}; images: {counts}.{left_out} Classes: {names}"
        f"{f' and {more} more (labels.txt)' if more > 0 else ''}. "
        "The model always answers with one of these classes, whatever an image shows."
    )


def _classes(confusion: Confusion) -> Iterator[str]:
    """Yield the paragraphs on how the model answers each class; of many classes, on the worst."""
    split, table = SPLIT_WORDS[confusion.split], class_tables.class_table(confusion)
    is_small = len(table.rows) <= MAX_CLASS_NAMES
    yield "### Each class"
    yield (
        f"On the {split} split. {class_tables.FIGURES_TEXT}"
        f"{'' if is_small else f' These are the {MAX_CLASS_NAMES} classes with the lowest F1.'}"
    )
    yield _class_table(table if is_small else class_tables.lowest_f1(table, MAX_CLASS_NAMES))
    yield "### Confusion matrix" if is_small else "### Classes that are most often confused"
    if is_small:
        yield "A row is a class, a column an answer; the cells are numbers of images."
        yield _class_table(class_tables.matrix_table(confusion))
    else:
        yield _class_table(class_tables.pair_table(confusion, MAX_CLASS_NAMES))


def _images(facts: DataFacts) -> Iterator[str]:
    """Yield the paragraphs on the images of each class; of many classes, on the largest and smallest."""
    table = class_tables.count_table(facts)
    if len(table.rows) > MAX_CLASS_NAMES:
        each = MAX_CLASS_NAMES // 2
        yield f"Images of the {each} largest and the {each} smallest classes:"
        table = class_tables.largest_and_smallest(table, each)
    else:
        yield "Images of each class:"
    yield _class_table(table)
    if facts.samples:
        how, names = sheet.describe_sheet(facts)
        yield f"Training images as the model sees them, {how}: {', '.join(map(_escape, names))}."
        yield facts.describe_samples()
        yield f"![Training images]({sheet.FILE_NAME})"


def _class_table(table: Table) -> str:
    """Return a table of classes as Markdown; fractions have four decimal places."""
    rows = [[f"{each:.4f}" if isinstance(each, float) else each for each in row] for row in table.rows]
    return _table([_escape(column) for column in table.columns], rows)


def _preprocessing(description: Description) -> str:
    seen = description.preprocessing
    color, size = image_files.padding_color(seen.transparency), f"{seen.pixels} pixels"
    how = f"({seen.interpolation}, antialiased)"
    dropped = seen.transparency == "drop"
    behind = "without transparency" if dropped else f"with {seen.transparency} behind transparent pixels"
    squares = {
        "crop": f"resize the shorter side to {size} {how}; crop the central square",
        "pad": f"resize the longer side to {size} {how}; fill the square with {color}",
        "squash": f"resize both sides to {size} {how}",
    }
    steps = [
        f"rotate by the EXIF tag; convert to RGB {behind} (16-bit grey: take the high byte)",
        squares[seen.resize],
    ]
    if seen.grey:
        steps.append("convert to grey, in three equal channels")
    if seen.image_size != seen.pixels:
        steps.append(f"resize to {seen.image_size} by {seen.image_size} pixels, in the same way")
    steps.append(f"per channel: divide by 255, subtract {list(seen.mean)}, then divide by {list(seen.std)}")
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _loader_code(description: Description) -> str:
    """Return ten to twelve lines of Python that load the model and classify an image without hpo."""
    seen = description.preprocessing
    steps = _square_code(seen)
    if seen.grey:
        steps.append("Grayscale(3)")
    if seen.image_size != seen.pixels:
        steps.append(_resize_code(f"({seen.image_size}, {seen.image_size})", seen))
    steps += ["ToTensor()", f"Normalize({list(seen.mean)}, {list(seen.std)})"]
    arguments = [f"{name}={value}" for name, value in description.arguments.items()]
    modules, types = "json, math, PIL.Image, PIL.ImageOps, torch, torchvision", TYPES
    if catalog.is_user_network(description.model):
        module, _, function = description.model.partition(":")
        builder = f'importlib.import_module("{module}").{function}'
        modules, types = f"importlib, {modules}", TYPES | OTHER_TYPES
    elif catalog.is_timm_model(description.model):
        name = description.model.removeprefix(catalog.TIMM_PREFIX).partition(".")[0]
        builder, arguments = "timm.create_model", [f'"{name}"', *arguments]
        modules, types = modules.replace("torch,", "timm, torch,"), TYPES | OTHER_TYPES
    else:
        builder, arguments = "torchvision.models.get_model", [f'"{description.model}"', *arguments]
    return LOADER_TEMPLATE.format(
        modules=modules,
        types=json.dumps(types),
        builder=builder,
        arguments=", ".join(arguments),
        formats=image_files.IMAGE_FORMATS,
        loading=COPY_CODE if description.model.startswith("mnasnet") else LOAD_CODE,
        steps=", ".join(f"torchvision.transforms.{step}" for step in steps),
        limit="" if seen.max_pixels == MAX_PIXELS else LIMIT_CODE.format(seen.max_pixels),
        background="" if seen.transparency == "drop" else BACKGROUND_CODE.format(color=seen.transparency),
    )


def _square_code(seen: Preprocessing) -> list[str]:
    """Return the transforms of torchvision that make an RGB image a square."""
    if seen.resize == "squash":
        return [_resize_code(f"({seen.pixels}, {seen.pixels})", seen)]
    if seen.resize == "pad":
        color = image_files.padding_color(seen.transparency)
        arguments = (
            f'({seen.pixels}, {seen.pixels}), PIL.Image.Resampling.{seen.interpolation.upper()}, "{color}"'
        )
        return [f"Lambda(lambda image: PIL.ImageOps.pad(image, {arguments}))"]
    return [_resize_code(str(seen.pixels), seen), f"CenterCrop({seen.pixels})"]


def _resize_code(size: str, seen: Preprocessing) -> str:
    """Return torchvision's transform that resizes an image; its default filter is bilinear."""
    if seen.interpolation == "bilinear":
        return f"Resize({size})"
    return f"Resize({size}, torchvision.transforms.InterpolationMode.{seen.interpolation.upper()})"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([_escape(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(value: Any) -> str:
    """Return a value as one line of text, with Markdown and HTML characters escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(str(value).split()))
