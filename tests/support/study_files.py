"""Study files for tests: a valid one, and parts of invalid ones."""

from pathlib import Path

from hpo.study import file
from hpo.study.definition import Definition
from hpo.training import config

FINETUNE = """\
name = "finetune"                  # the study's name in the store

[train]                            # fixes an option
dataset = "cifar10"                # cifar10, flowers102, ... or folder:PATH
image_size = 224                   # pixels, square
epochs = 20
weights = "imagenet"               # imagenet, none, or a file
tune = "all"                       # all, or head
schedule = "step"                  # step exponential cosine constant onecycle
step_size = 5                      # epochs
gamma = 0.1
# limit = 500                      # at most so many training images (evaluation splits shrink in proportion); left out: all
selection = "valid"                # the split that "accuracy" is measured on: valid, or test to mirror the original report
seed = 0

[space]                            # searches an option
model = ["alexnet", "vgg16", "resnet18"]
optimizer = ["sgd", "adam"]
lr = { low = 1e-5, high = 1e-1, log = true }
momentum = { low = 0.0, high = 0.95, when = { optimizer = "sgd" } }
batch_size = [8, 16, 32, 64]

[search]
trials = 50
sampler = { name = "tpe", seed = 0 }
pruner = { name = "hyperband", min_epochs = 2, reduction_factor = 3 }

[[points]]                         # settings to run exactly once each, before (or, with sampler "grid", instead of) any search
model = "resnet18"
optimizer = "sgd"
lr = 1e-3
momentum = 0.9
batch_size = 16
"""  # noqa: E501  # the documented example, verbatim

TRAIN = '[train]\ndataset = "digits"\nimage_size = 32\nweights = "none"\nepochs = 2\n'
SPACE = "[space]\nlr = [0.1, 0.2]\n"
GRID = '[search]\nsampler = "grid"\n'
BOTH = "optimizer = ['sgd', 'adam']"
POINT = "[[points]]\nlr = 0.1\n"
DOCUMENTED = "'hpo schema' and docs/reference/study-file.md have all {} options"
OPTIONS = DOCUMENTED.format(len(config.OPTIONS))
SEARCHABLE = DOCUMENTED.format(len(config.SEARCHABLE))
POINT_OPTIONS = DOCUMENTED.format(len(config.SEARCHABLE) + 2)  # attributes and site, too
LR = "want a number, above 0 and at most 100"
NAME = "name: want 1 to 100 printable characters, without '/', a space at an end or a '-' in front"
SOME_MODELS = (
    "some it has: alexnet, vgg16, resnet18, resnet50, mobilenet_v3_small, efficientnet_b0, vit_b_16; a "
    "model of timm is named timm/NAME, a network of your own package.module:function"
)


def in_space(line: str, more: str = "") -> str:
    return f"{TRAIN}[space]\n{line}\n{more}"


def in_search(line: str) -> str:
    return f"{TRAIN}{SPACE}[search]\n{line}\n"


def in_point(line: str) -> str:
    return f"{TRAIN}{GRID}[[points]]\n{line}\n"


def assert_message(line: str, expected: str) -> None:
    if expected.endswith(" ..."):
        assert line.startswith(expected.removesuffix(" ...")), line
    else:
        assert line == expected


def write_file(folder: Path, text: str | bytes, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(folder: Path, text: str | bytes, *sets: str, name: str | None = None) -> Definition:
    return file.load_study_file(write_file(folder, text), sets, name)


def searched_values(found: Definition) -> dict[str, str]:
    return {parameter.name: str(parameter.values) for parameter in found.space}
