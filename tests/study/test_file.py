import re
import sys
from pathlib import Path

import pytest

from hpo import errors
from hpo.cli import main
from hpo.study import definition, file, space
from hpo.study.definition import Definition
from hpo.training import config

FINETUNE = """\
name = "finetune"                  # the study's name in the store

[train]                            # fixes an option
dataset = "cifar10"                # cifar10 cifar100 svhn mnist fashion_mnist digits, or folder:PATH
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
"""  # noqa: E501  # the contract's example, word for word

# The original report's 14 points: site, epochs, model, batch size, optimizer, lr, momentum.
REPORT = """
C 30 alexnet  16 sgd  0.001   0.9
C 30 alexnet  16 adam 0.001   -
C 30 vgg16    16 sgd  0.001   0.9
C 30 vgg16    16 adam 0.001   -
C 30 resnet18 16 sgd  0.001   0.9
C 30 resnet18 16 adam 0.001   -
L 20 resnet18 16 sgd  0.1     0.9
L 20 resnet18 16 sgd  0.001   0.9
L 20 resnet18 16 sgd  0.00001 0.9
L 20 resnet18 16 sgd  0.001   0.45
L 20 resnet18 16 sgd  0.001   0.0
L 20 resnet18  8 sgd  0.001   0.9
L 20 resnet18 32 sgd  0.001   0.9
L 20 resnet18 64 sgd  0.001   0.9
"""

TRAIN = '[train]\ndataset = "digits"\nimage_size = 32\nweights = "none"\nepochs = 2\n'
SPACE = "[space]\nlr = [0.1, 0.2]\n"
GRID = '[search]\nsampler = "grid"\n'
POINT = "[[points]]\nlr = 0.1\n"

OPTIONS = f"options: {', '.join(sorted(config.OPTIONS))}"
SEARCHABLE = f"options: {', '.join(sorted(config.SEARCHABLE))}"
POINT_OPTIONS = f"options: {', '.join(sorted([*config.SEARCHABLE, 'site']))}"
LR = "want a number, above 0 and at most 100"
NAME = "name: want 1 to 100 printable characters, without '/', a space at an end or a '-' in front"
SOME_MODELS = (
    "some it has: alexnet, vgg16, resnet18, resnet50, mobilenet_v3_small, efficientnet_b0, vit_b_16"
)
CASES: dict[str, tuple[str, str]] = {}  # what is wrong -> the file's text, what is said of it


def in_space(line: str, more: str = "") -> str:
    return f"{TRAIN}[space]\n{line}\n{more}"


def in_search(line: str) -> str:
    return f"{TRAIN}{SPACE}[search]\n{line}\n"


def in_point(line: str) -> str:
    return f"{TRAIN}{GRID}[[points]]\n{line}\n"


CASES |= {  # keys
    "unknown section": (
        "spaces = {}",
        "spaces is not an option; did you mean 'space'? options: name, points, search, space, train",
    ),
    "unknown key in train": (
        "[train]\nlearning_rate = 0.1",
        f"train.learning_rate is not an option; did you mean 'lr'? {OPTIONS}",
    ),
    "unknown key in space": (
        in_space("optimiser = ['sgd']"),
        f"space.optimiser is not an option; did you mean 'optimizer'? {SEARCHABLE}",
    ),
    "unknown key in a point": (
        in_point("batchsize = 16"),
        f"points[1].batchsize is not an option; did you mean 'batch_size'? {POINT_OPTIONS}",
    ),
    "unknown key in search": (
        in_search("trails = 3"),
        "search.trails is not an option; did you mean 'trials'? "
        "options: chance_epochs, deadline, device_hours, epochs, keep_weights, max_attempts, "
        "prune_points, pruner, replicates, sampler, start_from, target, trials",
    ),
    "unknown key of the sampler": (
        in_search("sampler = { sed = 3 }"),
        "search.sampler.sed is not an option; did you mean 'seed'? options: name, seed",
    ),
    "unknown key of the pruner": (
        in_search("pruner = { min_epoch = 3 }"),
        "search.pruner.min_epoch is not an option; did you mean 'min_epochs'? options: min_epochs, name, "
        "patience, percentile, reduction_factor, startup_trials",
    ),
    "unknown key of a range": (
        in_space("lr = { low = 0.1, hi = 0.2 }"),
        "space.lr.hi is not an option; did you mean 'high'? options: high, log, low, step, when",
    ),
    "unknown key of choices": (
        in_space("lr = { choices = [0.1], log = true }"),
        "space.lr.log is not an option; options: choices, when",
    ),
    "key like nothing at all": ("[train]\nzzz = 1", f"train.zzz is not an option; {OPTIONS}"),
    "key on two lines": ('[train]\n"a\\nb" = 1', f"train.'a\\nb' is not an option; {OPTIONS}"),
    "key that is no ASCII": ('[train]\n"größe" = 1', f"train.'größe' is not an option; {OPTIONS}"),
}
CASES |= {  # types and ranges
    "text for a number": ("[train]\nlr = '0.1'", f"train.lr: {LR}, found '0.1'"),
    "text for a whole number": (
        "[train]\nepochs = '3'",
        "train.epochs: want a whole number, at least 1 and at most 100000, found '3'",
    ),
    "true for a whole number": (
        "[train]\nepochs = true",
        "train.epochs: want a whole number, at least 1 and at most 100000, found true",
    ),
    "fraction for a whole number": (
        "[train]\nepochs = 3.0",
        "train.epochs: want a whole number, at least 1 and at most 100000, found 3.0",
    ),
    "number for a truth": ("[train]\nnesterov = 1", "train.nesterov: want true or false, found 1"),
    "file for an objective": (
        '[train]\nobjective = "own/module.py:climb"',
        "train.objective: want package.module:function, which yields (accuracy, state) after each epoch, "
        "found 'own/module.py:climb'",
    ),
    "number for a text": ("[train]\nmodel = 18", "train.model: want a text, found 18"),
    "date": ("[train]\nlr = 2020-01-01", f"train.lr: {LR}, found 2020-01-01"),
    "range in train": (
        "[train]\nlr = { low = 0.1, high = 1 }",
        f"train.lr: {LR}, found {{ low = 0.1, high = 1 }}",
    ),
    "list in train": ("[train]\nlr = [0.1, 1]", f"train.lr: {LR}, found [0.1, 1]"),
    "list in a point": (in_point("lr = [0.1, 1]"), f"points[1].lr: {LR}, found [0.1, 1]"),
    "long value": ("[train]\nlr = '" + 1000 * "x" + "'", f"train.lr: {LR}, found '{76 * 'x'}..."),
    "learning rate of 0": (in_point("lr = 0"), f"points[1].lr: {LR}, found 0"),
    "momentum of 1": (
        "[train]\nmomentum = 1.0",
        "train.momentum: want a number, at least 0 and below 1, found 1.0",
    ),
    "unknown word": (
        "[train]\noptimizer = 'adamax'",
        "train.optimizer: found 'adamax'; did you mean 'adam'? allowed: sgd, adam, adamw, rmsprop",
    ),
    "empty word": ("[train]\nschedule = ''", "train.schedule: found ''; allowed: step, exponential, ..."),
    "no weights": (
        "[train]\nweights = ''",
        "train.weights: want a text, of a length of at least 1, found ''",
    ),
    "not a number": ("[train]\nlr = nan", "train.lr: want a finite number, found nan"),
    "infinity": (in_point("weight_decay = inf"), "points[1].weight_decay: want a finite number, found inf"),
    "number beyond floats": ("[train]\nlr = 1e400", "train.lr: want a finite number, found inf"),
    "not a number in a list": (in_space("lr = [0.1, nan]"), "space.lr[2]: want a finite number, found nan"),
    "not a number as a bound": (
        in_space("lr = { low = nan, high = nan }"),
        "space.lr.low: want a finite number, found nan",
    ),
    "not a number as a step": (
        in_space("lr = { low = 0.1, high = 0.2, step = nan }"),
        "space.lr.step: want a finite number, found nan",
    ),
    "not a number as a percentile": (
        in_search("pruner = { name = 'percentile', percentile = nan }"),
        "search.pruner.percentile: want a finite number, found nan",
    ),
    "whole number beyond 64 bits": (
        "[train]\nseed = 99999999999999999999",
        "train.seed: want a number of at most 64 bits, found a larger one",
    ),
    "number with 2000 hexadecimal digits": (
        f"[train]\nlr = 0x{2000 * 'f'}",
        "train.lr: want a number of at most 64 bits, found a larger one",
    ),
    "too many trials": (
        in_search("trials = 1000001"),
        "search.trials: want a whole number, at least 0 and at most 1000000, found 1000001",
    ),
    "no epochs": (
        in_search("epochs = 0"),
        "search.epochs: want a whole number, at least 1, found 0",
    ),
    "epochs of guessing below none": (
        in_search("chance_epochs = -1"),
        "search.chance_epochs: want a whole number, at least 0 and at most 100000, found -1",
    ),
    "no hours": (
        in_search("device_hours = 0.0"),
        "search.device_hours: want a number, above 0, found 0.0",
    ),
    "percentage for a target": (
        in_search("target = 95"),
        "search.target: want a number, above 0 and at most 1, found 95",
    ),
    "deadline in words": (
        in_search('deadline = "tomorrow"'),
        "search.deadline: want a date and time such as 2030-01-31T18:00:00Z, without quotes, "
        "found 'tomorrow'",
    ),
    "deadline without a time": (
        in_search("deadline = 2030-01-31"),
        "search.deadline: want a date and time such as 2030-01-31T18:00:00Z, without quotes, "
        "found 2030-01-31",
    ),
    "negative trials": (
        in_search("trials = -1"),
        "search.trials: want a whole number, at least 0 and at most 1000000, found -1",
    ),
    "negative seed": (
        in_search("sampler = { seed = -1 }"),
        "search.sampler.seed: want a whole number, at least 0 and below 2147483648, found -1",
    ),
}
CASES |= {  # lists and ranges
    "low above high": (
        in_space("lr = { low = 0.1, high = 0.01 }"),
        "space.lr: low 0.1 is above high 0.01; swap them",
    ),
    "logarithm of 0": (
        in_space("weight_decay = { low = 0, high = 0.1, log = true }"),
        "space.weight_decay: log wants low above 0, found 0.0",
    ),
    "logarithm of a negative number": (
        in_space("weight_decay = { low = -1.0, high = 0.1, log = true }"),
        "space.weight_decay.low: want a number, at least 0 and at most 10, found -1.0",
    ),
    "logarithm with a step": (
        in_space("lr = { low = 0.1, high = 0.2, log = true, step = 0.1 }"),
        "space.lr: log and step exclude each other; keep one",
    ),
    "log that is no truth": (
        in_space("lr = { low = 0.1, high = 0.2, log = 'yes' }"),
        "space.lr.log: want true or false, found 'yes'",
    ),
    "step of 0": (
        in_space("lr = { low = 0.1, high = 0.2, step = 0 }"),
        "space.lr.step: want a number, above 0, found 0",
    ),
    "step that is no number": (
        in_space("lr = { low = 0.1, high = 0.2, step = true }"),
        "space.lr.step: want a number, above 0, found true",
    ),
    "step that misses the end": (
        in_space("lr = { low = 0.1, high = 0.95, step = 0.1 }"),
        "space.lr.step: steps of 0.1 from 0.1 do not meet high 0.95; 0.9 would be the last value, "
        "so take that for high",
    ),
    "whole step that misses the end": (
        in_space("batch_size = { low = 8, high = 63, step = 8 }"),
        "space.batch_size.step: steps of 8 from 8 do not meet high 63; 56 would be the last value, "
        "so take that for high",
    ),
    "step too small to count": (
        in_space("lr = { low = 0.1, high = 100, step = 1e-300 }"),
        "space.lr.step: 1e-300 is too small for 0.1 to 100.0; leave it out",
    ),
    "fractions for a whole number's bounds": (
        in_space("batch_size = { low = 8.0, high = 64 }"),
        "space.batch_size.low: want a whole number, at least 1 and at most 65536, found 8.0",
    ),
    "fraction for a whole number's step": (
        in_space("batch_size = { low = 8, high = 64, step = 0.5 }"),
        "space.batch_size.step: want a whole number, above 0, found 0.5",
    ),
    "bound of 0 for a learning rate": (
        in_space("lr = { low = 0.0, high = 0.1 }"),
        f"space.lr.low: {LR}, found 0.0",
    ),
    "bound above an option's range": (
        in_space("momentum = { low = 0.0, high = 1.5 }"),
        "space.momentum.high: want a number, at least 0 and below 1, found 1.5",
    ),
    "text as a bound": (
        in_space("lr = { low = '1e-3', high = 0.1 }"),
        f"space.lr.low: {LR}, found '1e-3'",
    ),
    "missing bound": (
        in_space("lr = { low = 0.1 }"),
        "space.lr: high is missing; want { low = ..., high = ... }, found { low = 0.1 }",
    ),
    "empty table": (
        in_space("lr = {}"),
        "space.lr: low is missing; want { low = ..., high = ... }, found {}",
    ),
    "number to search": (
        in_space("lr = 0.1"),
        "space.lr: want a list of values or { low = ..., high = ... }, found 0.1; "
        "to fix it, put it into [train], or --set train.lr=...",
    ),
    "word to search": (
        in_space("model = 'resnet18'"),
        "space.model: want a list of values, found 'resnet18'; "
        "to fix it, put it into [train], or --set train.model=...",
    ),
    "range of words": (
        in_space("model = { low = 1, high = 2 }"),
        "space.model: want a list of values, found { low = 1, high = 2 }",
    ),
    "empty list": (in_space("lr = []"), "space.lr: want a list of one value or more, found []"),
    "choices that are no list": (
        in_space("lr = { choices = 0.1 }"),
        "space.lr: want a list of one value or more, found 0.1",
    ),
    "value listed twice": (in_space("lr = [0.1, 0.2, 0.1]"), "space.lr: 0.1 is listed twice; list it once"),
    "value listed twice in two spellings": (
        in_space("lr = [1, 1.0]"),
        "space.lr: 1.0 is listed twice; list it once",
    ),
    "wrong value in a list": (in_space("lr = [0.1, 'x']"), f"space.lr[2]: {LR}, found 'x'"),
    "list in a list": (in_space("lr = [[0.1]]"), f"space.lr[1]: {LR}, found [0.1]"),
    "number among truths": (
        in_space("nesterov = [true, 0]"),
        "space.nesterov[2]: want true or false, found 0",
    ),
    "combinations without end": (
        in_space(
            "", "".join(f"{n} = {list(range(1, 1001))}\n" for n in ("batch_size", "step_size")) + GRID
        ),
        "space: sampler 'grid' would run more than 100000 combinations; shorten lists",
    ),
}
BOTH = "optimizer = ['sgd', 'adam']"
CASES |= {  # conditions
    "when on what there is not": (
        in_space("lr = { low = 0.1, high = 0.2, when = { optimiser = 'sgd' } }", BOTH),
        f"space.lr.when.optimiser is not an option; did you mean 'optimizer'? {SEARCHABLE}",
    ),
    "when on what is one for the study": (
        in_space("lr = { low = 0.1, high = 0.2, when = { dataset = 'digits' } }"),
        f"space.lr.when.dataset is not an option; {SEARCHABLE}",
    ),
    "when on a value that does not occur": (
        in_space("lr = { choices = [0.1], when = { optimizer = ['sgd', 'adamw'] } }", BOTH),
        "space.lr.when.optimizer: optimizer is never 'adamw'; it is one of 'sgd', 'adam'",
    ),
    "when on a value that does not exist": (
        in_space("lr = { choices = [0.1], when = { optimizer = 'adm' } }", BOTH),
        "space.lr.when.optimizer: found 'adm'; did you mean 'adam'? allowed: sgd, adam, adamw, rmsprop",
    ),
    "when on no value": (
        in_space("lr = { choices = [0.1], when = { optimizer = [] } }", BOTH),
        "space.lr.when.optimizer: want a value or more, found []",
    ),
    "when on a table": (
        in_space("lr = { choices = [0.1], when = { optimizer = { is = 'sgd' } } }", BOTH),
        "space.lr.when.optimizer: found { is = 'sgd' }; allowed: sgd, adam, adamw, rmsprop",
    ),
    "when that is no table": (
        in_space("lr = { choices = [0.1], when = 'sgd' }"),
        "space.lr.when: want a table, found 'sgd'",
    ),
    "when on another value than the fixed one": (
        in_space("lr = [0.1]\nweight_decay = { choices = [0.1], when = { optimizer = 'adam' } }"),
        "space.weight_decay.when.optimizer: optimizer is not searched, it is always 'sgd'; "
        "name that, search optimizer, or leave weight_decay out",
    ),
    "when on a range": (
        in_space("gamma = { choices = [0.1], when = { lr = 0.1 } }\nlr = { low = 0.1, high = 0.2 }"),
        "space.gamma.when.lr: lr is a range; want an option with a list",
    ),
    "when on itself": (
        in_space("optimizer = { choices = ['sgd', 'adam'], when = { optimizer = 'sgd' } }"),
        "space: conditions go round in a circle: optimizer; take a 'when' away",
    ),
    "whens in a circle": (
        in_space(
            "model = { choices = ['resnet18', 'vgg16'], when = { optimizer = 'sgd' } }",
            "optimizer = { choices = ['sgd', 'adam'], when = { model = 'vgg16' } }",
        ),
        "space: conditions go round in a circle: model, optimizer; take a 'when' away",
    ),
    "whens in a circle through an option's use": (
        in_space(
            "momentum = [0.0, 0.9]", "optimizer = { choices = ['sgd', 'adam'], when = { momentum = 0.9 } }"
        ),
        "space: conditions go round in a circle: momentum, optimizer; take a 'when' away",
    ),
    "momentum searched under Adam": (
        in_space("momentum = { low = 0.0, high = 0.9, when = { optimizer = 'adam' } }", BOTH),
        "space.momentum.when.optimizer: optimizer 'adam' has no momentum; it is for sgd, rmsprop; "
        "leave it out",
    ),
    "momentum searched where all is Adam": (
        f"{TRAIN}optimizer = 'adam'\n[space]\nmomentum = [0.0, 0.9]",
        "space.momentum: optimizer 'adam' has no momentum; it is for sgd, rmsprop; leave it out",
    ),
    "step size searched under what a default leaves constant": (
        f"{TRAIN}schedule = 'constant'\n[space]\nstep_size = [3, 5]",
        "space.step_size: schedule 'constant' has no step_size; it is for step; leave it out",
    ),
    "warm-up searched where all warm up by themselves": (
        in_space("warmup_epochs = [0, 1]\nschedule = ['onecycle']"),
        "space.warmup_epochs: schedule 'onecycle' has no warmup_epochs; it is for step, exponential, ...",
    ),
}
CASES |= {  # points
    "momentum in an Adam point": (
        in_point("optimizer = 'adam'\nmomentum = 0.9"),
        "points[1].momentum: optimizer 'adam' has no momentum; it is for sgd, rmsprop; leave it out",
    ),
    "momentum in a point that is Adam by default": (
        f"{TRAIN}optimizer = 'adam'\n{GRID}{POINT}[[points]]\nmomentum = 0.9",
        "points[2].momentum: optimizer 'adam' has no momentum; it is for sgd, rmsprop; leave it out",
    ),
    "data set of a point": (
        in_point("dataset = 'mnist'"),
        "points[1].dataset: points that differ in it cannot be compared; fix it in [train]",
    ),
    "data set searched": (
        in_space("dataset = ['mnist', 'digits']"),
        "space.dataset: cannot be searched, since trials that differ in it cannot be compared; "
        "fix it in [train]",
    ),
    "site that is no text": (in_point("site = 3"), "points[1].site: want a text, found 3"),
    "point outside of what is searched": (
        f"{TRAIN}{SPACE}[[points]]\nlr = 0.3",
        "points[1].lr: found 0.3, outside of what space.lr searches (0.1, 0.2); name one inside",
    ),
    "point that falls back to what is not searched": (
        f"{TRAIN}{SPACE}[[points]]\nbatch_size = 8",
        "points[1].lr: left out, it falls back to 0.001, outside of what space.lr searches (0.1, 0.2); "
        "name one inside",
    ),
    "points that are a table": (
        f"{TRAIN}[points]\nlr = 0.1",
        "points: want tables under [[points]], found { lr = 0.1 }",
    ),
    "points that are numbers": ("points = [1, 2]", "points[1]: want a table, found 1"),
}
CASES |= {  # what a study is
    "fixed and searched": (
        f"{TRAIN}lr = 0.1\n{SPACE}",
        "lr: both fixed in [train] and searched in [space]; keep one",
    ),
    "space that is no table": ("space = 3", "space: want a table, found 3"),
    "train that is a list": ("train = [1]", "train: want a table, found [1]"),
    "search that is a word": ("search = 'tpe'", "search: want a table, found 'tpe'"),
    "sampler that is a number": (in_search("sampler = 3"), "search.sampler: want a table, found 3"),
    "CMA-ES": (
        in_search("sampler = 'cmaes'"),
        "search.sampler.name: found 'cmaes'; allowed: tpe, gp, qmc, random, grid",
    ),
    "unknown pruner": (
        in_search("pruner = { name = 'hyperbnd' }"),
        "search.pruner.name: found 'hyperbnd'; did you mean 'hyperband'? "
        "allowed: asha, hyperband, median, percentile, patient, none",
    ),
    "grid of ranges": (
        in_space("lr = { low = 0.1, high = 0.2 }", GRID),
        "space.lr: sampler 'grid' wants lists or [[points]], found a range",
    ),
    "grid of nothing": (
        f"{TRAIN}{GRID}",
        "nothing to run: search.trials is 0, or the sampler is 'grid', ...",
    ),
    "search without trials": (
        in_search("trials = 0"),
        "nothing to run: search.trials is 0, or the sampler is 'grid', and there are no [[points]]; "
        "list some, or name what to search",
    ),
    "nothing at all": (
        "",
        "search.trials is 20 but [space] is empty; name what to search, or run [[points]] alone with "
        'search.sampler = "grid"',
    ),
    "empty name": ("name = ''", f"{NAME}, found ''"),
    "name that is a number": ("name = 3", f"{NAME}, found 3"),
    "name that is a path": ("name = 'a/b'", f"{NAME}, found 'a/b'"),
    "name that is an option": ("name = '--help'", f"{NAME}, found '--help'"),
    "name with a space in front": ("name = ' a'", f"{NAME}, found ' a'"),
    "name on two lines": ('name = "a\\nb"', f"{NAME}, found 'a\\nb'"),
    "name without end": (f"name = '{101 * 'x'}'", f"{NAME}, found '{76 * 'x'}..."),
}
CASES |= {  # models, data and weights
    "unknown model": (
        f"{TRAIN}model = 'ResNet18'\n{SPACE}",
        "train.model: torchvision has no classification model 'ResNet18'; did you mean 'resnet18'? "
        f"{SOME_MODELS}",
    ),
    "unknown model in a list": (
        in_space("model = ['vgg16', 'alexnett']"),
        "space.model[2]: torchvision has no classification model 'alexnett'; did you mean 'alexnet'? "
        f"{SOME_MODELS}",
    ),
    "model without a name": (
        f"{TRAIN}model = ''",
        f"train.model: torchvision has no classification model ''; {SOME_MODELS}",
    ),
    "detection model": (
        in_point("model = 'fasterrcnn_resnet50_fpn'"),
        "points[1].model: torchvision has no classification model 'fasterrcnn_resnet50_fpn'; did you ...",
    ),
    "dropout of a model without": (
        f"{TRAIN}dropout = 0.1\n{SPACE}",
        "dropout: model 'resnet18' has no dropout; leave it out, or search it with "
        'when = { model = "..." } for a model that has',
    ),
    "dropout searched for a model without": (
        in_space("dropout = { low = 0.1, high = 0.5 }\nmodel = ['vgg16', 'resnet18']"),
        "dropout: model 'resnet18' has no dropout; ...",
    ),
    "dropout in a point of a model without": (
        f"{TRAIN}{GRID}{POINT}[[points]]\ndropout = 0.1",
        "points[2].dropout: model 'resnet18' has no dropout; ...",
    ),
    "images too small": (
        f"{TRAIN}model = 'alexnet'\n{SPACE}",
        "image_size: model 'alexnet' does not take 32 x 32 pixels (Given input size: (256x1x1). "
        "Calculated output size: (256x0x0). Output size is too small); 64 would do",
    ),
    "images too small for one point": (
        f"{TRAIN}{GRID}{POINT}[[points]]\nmodel = 'alexnet'",
        "points[2].image_size: model 'alexnet' does not take 32 x 32 pixels ...",
    ),
    "images too small at one end": (
        "[space]\nmodel = ['alexnet', 'resnet18']\nimage_size = { low = 32, high = 64 }",
        "image_size: model 'alexnet' does not take 32 x 32 pixels ...",
    ),
    "images of another size than the only one": (
        in_point("model = 'vit_b_16'"),
        "points[1].image_size: model 'vit_b_16' does not take 32 x 32 pixels (Wrong image height! "
        "Expected 224 but got 32!); 224 would do",
    ),
    "unknown data set": (
        "[train]\ndataset = 'cifar-10'",
        "train.dataset: found 'cifar-10'; did you mean 'cifar10'? allowed: cifar10, cifar100, svhn, mnist, "
        "fashion_mnist, digits, folder:PATH",
    ),
    "folder without a path": (
        "[train]\ndataset = 'folder:'",
        "train.dataset: found 'folder:'; did you mean 'folder:PATH'? allowed: ...",
    ),
    "weights that are no file": (
        "[space]\nweights = ['none', 'imagnet']",
        "space.weights[2]: found 'imagnet', and there is no such file; did you mean 'imagenet'? "
        "allowed: imagenet, none, or a file's path",
    ),
    "weights below nobody's home": (
        "[train]\nweights = '~nobody-at-all/x.pth'",
        "train.weights: found '~nobody-at-all/x.pth', and there is no such file; allowed: ...",
    ),
}
CASES |= {  # TOML
    "no TOML": ("x = = 3", "not a TOML file: Invalid value (at line 1, column 5)"),
    "key given twice": (
        "[train]\nlr = 0.1\nlr = 0.2",
        "not a TOML file: Cannot overwrite a value (at end of document)",
    ),
    "nesting without end": (f"x = {10000 * '['}", "not a TOML file: maximum recursion depth ..."),
    "number with 5000 digits": (f"[train]\nlr = {5000 * '9'}", "not a TOML file: Exceeds the limit ..."),
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run the command, which must refuse and store nothing; give the line that it writes."""

    def run(*args: str) -> str:
        store = tmp_path / "store" / "hpo.db"
        monkeypatch.setattr(sys, "argv", ["hpo", "create", *args, "--store", f"sqlite:///{store}"])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        out, err = capsys.readouterr()
        assert (exit_.value.code, out) == (1, "")
        assert err.startswith("hpo: ")
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert not store.parent.exists()
        return err.removeprefix("hpo: ").removesuffix("\n")

    return run


def assert_said(line: str, expected: str) -> None:
    if expected.endswith(" ..."):
        assert line.startswith(expected.removesuffix(" ...")), line
    else:
        assert line == expected


def written(folder: Path, text: str | bytes, name: str = "study.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(folder: Path, text: str | bytes, *sets: str, name: str | None = None) -> Definition:
    return file.load(written(folder, text), sets, name)


def spreads(found: Definition) -> dict[str, str]:
    return {parameter.name: str(parameter.values) for parameter in found.space}


@pytest.mark.parametrize("wrong", CASES)
def test_a_study_file_is_refused_in_one_line(refused, tmp_path, wrong):
    text, expected = CASES[wrong]
    path = written(tmp_path, text)
    assert_said(refused(str(path)), f"{path}: {expected}")


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (
            "quickstrat",
            "quickstrat: no such study file, and none of that name ships with hpo; did you mean "
            "'quickstart'? those that ship: finetune, original-grid, quickstart, wishlist",
        ),
        (
            "my/folder/of/studies/finetun.toml",
            "my/folder/of/studies/finetun.toml: no such study file, ...; did you mean 'finetune'? ...",
        ),
        (
            "nowhere.toml",
            "nowhere.toml: no such study file, and none of that name ships with hpo; those ...",
        ),
        ("~nobody-at-all/x.toml", "~nobody-at-all/x.toml: no such study file, ..."),
        (1000 * "x", 1000 * "x" + ": no such study file, ..."),
        ("two\nlines", "two lines: no such study file, ..."),
        ("/", "/: want a study file, found a folder"),
        ("", "'': want a study file, found a folder"),
    ],
)
def test_a_study_that_is_not_there_is_refused_with_the_nearest_that_is(refused, study, said):
    line = refused(study)
    assert re.match(re.escape(said).replace(re.escape("..."), ".*"), line), line


def test_a_file_that_is_no_text_is_refused(refused, tmp_path):
    path = written(tmp_path, TRAIN.encode("utf-16"))
    assert refused(str(path)).startswith(f"{path}: not a TOML file: 'utf-8' codec can't decode byte 0xff")


def test_the_real_command_refuses_in_one_line_and_makes_nothing(workplace):
    study = workplace.study(in_space("lr = { low = 0.1, high = nan }"))
    done = workplace.hpo("create", study, code=1)
    assert (done.out, done.err) == ("", "hpo: small.toml: space.lr.high: want a finite number, found nan\n")
    assert not (workplace.path / "storage").exists()


def test_a_name_that_is_no_utf8_is_refused(refused):
    assert refused("quickstart", "--name", "\udcff").endswith(f"{NAME}, found '\\udcff'")


# What is read


def test_the_contracts_example_reads_as_it_says(tmp_path):
    found = read(tmp_path, FINETUNE)
    assert found.name == "finetune"
    assert found.config({}) == config.Config(epochs=20)
    assert spreads(found) == {
        "model": "'alexnet', 'vgg16', 'resnet18'",
        "optimizer": "'sgd', 'adam'",
        "lr": "1e-05 to 0.1, log",
        "momentum": "0.0 to 0.95, when optimizer is 'sgd'",
        "batch_size": "8, 16, 32, 64",
    }
    assert found.search.trials == 50
    assert found.search.sampler == definition.Sampler(name="tpe", seed=0)
    assert found.search.pruner == definition.Pruner(name="hyperband", min_epochs=2, reduction_factor=3)
    assert [point.setting for point in found.points] == [
        {"model": "resnet18", "optimizer": "sgd", "lr": 0.001, "momentum": 0.9, "batch_size": 16}
    ]
    assert found.budget == 51


def test_the_contracts_example_is_the_one_that_ships(tmp_path):
    assert file.load(file.find("finetune")) == read(tmp_path, FINETUNE)


@pytest.mark.parametrize("name", ["finetune", "original-grid", "quickstart", "wishlist"])
def test_a_shipped_study_is_found_by_its_name_and_says_what_it_costs_and_how_to_run_it(name):
    path = file.find(name)
    assert file.load(path).name == path.stem == name
    comment = path.read_text().partition("\n\n")[0]
    for heading in ("# Source:", "# Cost:", f"# Run it:  hpo run {name}"):
        assert heading in comment


def test_the_original_grid_is_the_reports_table():
    found = file.load(file.find("original-grid"))
    rows = []
    for point in found.points:
        setting = dict(point.setting)
        momentum = setting.pop("momentum", "-")
        columns = ("epochs", "model", "batch_size", "optimizer", "lr")
        rows.append((point.site, *(setting.pop(column) for column in columns), momentum))
        assert setting == {}
    table = [line.split() for line in REPORT.strip().splitlines()]
    assert rows == [
        (site, int(epochs), model, int(batch), optimizer, float(lr), m if m == "-" else float(m))
        for site, epochs, model, batch, optimizer, lr, m in table
    ]
    assert len(rows) == found.budget == 14
    procedure = config.Config(schedule="step", step_size=5, gamma=0.1, loss="cross_entropy", tune="all")
    assert found.config({}) == procedure.model_copy(update={"selection": "test", "image_size": 224})
    assert (found.train["dataset"], found.train["weights"]) == ("cifar10", "imagenet")


def test_the_original_grid_says_how_the_report_contradicts_itself_on_point_9():
    text = file.find("original-grid").read_text()
    note, _, point = text.partition("[[points]]                          # 9")
    assert "lr = 1e-5" in point.partition("[[points]]")[0]
    note = note.rpartition("\n\n")[2]
    for part in ("0.0001", "0.00001 four times", "write lr = 1e-4"):
        assert part in note


def test_a_mark_in_front_and_windows_line_ends_do_not_matter(tmp_path):
    text = TRAIN + SPACE
    plain = read(tmp_path, text)
    assert read(tmp_path, "\ufeff" + text.replace("\n", "\r\n")) == plain


def test_a_study_without_a_name_has_its_files(tmp_path):
    path = written(tmp_path, TRAIN + SPACE, "Größen 数字.toml")
    assert file.load(path).name == "Größen 数字"
    assert file.load(path, name="other").name == "other"


def test_names_beyond_ascii_are_kept(tmp_path):
    found = read(tmp_path, f'name = "日本 🎉"\n{TRAIN}{GRID}[[points]]\nsite = "Köln"\nlr = 0.1\n')
    assert (found.name, found.points[0].site) == ("日本 🎉", "Köln")
    assert definition.loads(definition.dumps(found)) == found


def test_a_sampler_and_a_pruner_may_be_just_a_name(tmp_path):
    short = read(tmp_path, in_search("sampler = 'qmc'\npruner = 'asha'"))
    assert short == read(tmp_path, in_search("sampler = { name = 'qmc' }\npruner = { name = 'asha' }"))


def test_whole_numbers_are_taken_for_fractions(tmp_path):
    found = read(
        tmp_path,
        in_space("lr = [1, 0.1]\nweight_decay = { low = 0, high = 1, step = 1 }", "[[points]]\nlr = 1"),
    )
    assert spreads(found) == {"lr": "1.0, 0.1", "weight_decay": "0.0 to 1.0, step 1"}
    assert repr(found.points[0].setting["lr"]) == "1.0"


def test_a_grid_of_lists_has_each_combination_that_differs(tmp_path):
    found = read(tmp_path, in_space(f"momentum = [0.0, 0.9]\n{BOTH}", GRID))
    assert [point.setting for point in found.points] == [
        {"optimizer": "sgd", "momentum": 0.0},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "adam"},
    ]


def test_a_grid_of_points_does_not_search(tmp_path):
    found = read(tmp_path, TRAIN + SPACE + GRID + "[[points]]\nlr = 0.7\n")
    assert [point.setting for point in found.points] == [{"lr": 0.7}]
    assert found.budget == 1


def test_points_alone_run_with_no_trials(tmp_path):
    assert read(tmp_path, f"{TRAIN}[search]\ntrials = 0\n{POINT}").budget == 1


def test_a_model_is_checked_at_the_sizes_that_it_is_trained_at(tmp_path):
    small = (
        "model = ['alexnet', 'resnet18']\nimage_size = { choices = [32], when = { model = 'resnet18' } }"
    )
    found = read(tmp_path, f"[space]\n{small}")
    assert {c.model: c.image_size for _, c in found.kinds()} == {"alexnet": 224, "resnet18": 32}


def test_dropout_is_searched_for_the_models_that_have_it(tmp_path):
    dropout = "dropout = { low = 0.0, high = 0.5, when = { model = 'mobilenet_v2' } }"
    found = read(tmp_path, in_space(f"model = ['mobilenet_v2', 'resnet18']\n{dropout}"))
    assert spreads(found)["dropout"] == "0.0 to 0.5, when model is 'mobilenet_v2'"


def test_the_stored_source_is_the_file_with_what_was_set_on_top(tmp_path):
    path = written(tmp_path, TRAIN + SPACE)
    text = file.source(str(path), ["train.epochs=1", "space.lr=[\n0.1]"])
    assert text == f"# --set train.epochs=1\n# --set space.lr=[ 0.1]\n{TRAIN}{SPACE}"
    assert read(tmp_path, text) == read(tmp_path, TRAIN + SPACE)
    named = file.source(str(path), ["train.epochs=1"], "replay")
    assert named == f"# --name replay\n# --set train.epochs=1\n{TRAIN}{SPACE}"


# --set


def test_a_set_option_is_fixed_everywhere(tmp_path):
    found = read(tmp_path, FINETUNE, "train.lr=0.01", "train.batch_size = 4")
    assert (found.train["lr"], found.train["batch_size"]) == (0.01, 4)
    assert spreads(found).keys() == {"model", "optimizer", "momentum"}
    assert found.points[0].setting == {"model": "resnet18", "optimizer": "sgd", "momentum": 0.9}


def test_a_small_replay_keeps_the_14_points():
    small = ("dataset=digits", "weights=none", "image_size=64", "epochs=1", "limit=96")
    found = file.load(file.find("original-grid"), [f"train.{text}" for text in small])
    whole = file.load(file.find("original-grid"))
    assert [point.hyperparameters() for point in found.points] == [
        p.hyperparameters() for p in whole.points
    ]
    assert [point.site for point in found.points] == [point.site for point in whole.points]
    runs = [found.config(point.setting) for point in found.points]
    assert {(run.dataset, run.weights, run.image_size, run.epochs, run.limit) for run in runs} == {
        ("digits", "none", 64, 1, 96)
    }


def test_momentum_is_searched_where_sgd_is_set(tmp_path):
    found = read(tmp_path, FINETUNE, "train.optimizer=sgd")
    momentum = next(p for p in found.space if p.name == "momentum")
    assert space.is_active(momentum, found.train)


def test_momentum_is_not_searched_where_adam_is_set(tmp_path):
    found = read(tmp_path, FINETUNE, "train.optimizer=adam")
    assert spreads(found).keys() == {"model", "lr", "batch_size"}
    assert found.points[0].setting == {"model": "resnet18", "lr": 0.001, "batch_size": 16}


def test_what_a_set_value_rules_out_leaves_the_space_with_all_that_hangs_on_it(tmp_path):
    text = in_space(
        f"""
        {BOTH}
        lr = [0.1]
        schedule = {{ choices = ["exponential", "cosine"], when = {{ optimizer = "sgd" }} }}
        gamma = {{ choices = [0.5], when = {{ schedule = "exponential" }} }}
        tune = {{ choices = ["head"], when = {{ optimizer = ["sgd", "adam"] }} }}
        """
    )
    assert spreads(read(tmp_path, text)).keys() == {"lr", "optimizer", "schedule", "gamma", "tune"}
    assert spreads(read(tmp_path, text, "train.optimizer=adam")).keys() == {"lr", "tune"}


def test_a_whole_grid_can_be_set_to_adam():
    found = file.load(file.find("original-grid"), ["train.optimizer=adam"])
    assert len(found.points) == 14
    assert not any("momentum" in point.setting for point in found.points)


@pytest.mark.parametrize(
    ("sets", "sampler"),
    [
        (["search.sampler=random"], definition.Sampler(name="random")),
        (["search.sampler.name=random"], definition.Sampler(name="random", seed=7)),
        (["search.sampler.seed=3"], definition.Sampler(name="gp", seed=3)),
        (["search.sampler=qmc", "search.sampler.seed=3"], definition.Sampler(name="qmc", seed=3)),
        (["search.sampler={name='random', seed=2}"], definition.Sampler(name="random", seed=2)),
    ],
)
def test_a_sampler_is_set_by_name_or_by_part(tmp_path, sets, sampler):
    text = in_search("sampler = { name = 'gp', seed = 7 }")
    assert read(tmp_path, text, *sets).search.sampler == sampler


def test_a_grid_is_set(tmp_path):
    found = read(tmp_path, TRAIN + SPACE, "search.sampler.name=grid")
    assert [point.setting for point in found.points] == [{"lr": 0.1}, {"lr": 0.2}]


def test_a_range_is_set_as_a_whole_or_by_part(tmp_path):
    whole = read(tmp_path, FINETUNE, "space.lr={low=1e-4,high=1e-2,log=true}")
    assert spreads(whole)["lr"] == "0.0001 to 0.01, log"
    assert spreads(read(tmp_path, FINETUNE, "space.lr.high=1e-2"))["lr"] == "1e-05 to 0.01, log"


def test_what_was_fixed_can_be_set_to_be_searched(tmp_path):
    found = read(tmp_path, FINETUNE, 'space.tune=["all", "head"]')
    assert spreads(found)["tune"] == "'all', 'head'"


def test_what_is_set_later_wins(tmp_path):
    found = read(
        tmp_path, FINETUNE, "train.epochs=1", "train.epochs=2", "search.trials=3", "search.trials=4"
    )
    assert (found.train["epochs"], found.search.trials) == (2, 4)


@pytest.mark.parametrize(
    "text", ["train.lr", "lr=3", "train=3", "train.=3", "=3", "", "trian.lr=3", "name=x"]
)
def test_a_set_that_is_no_key_and_value_is_refused(refused, text):
    wanted = "want KEY=VALUE with a KEY such as train.epochs, space.lr or search.trials"
    assert refused("quickstart", "--set", text) == f"--set {text}: {wanted}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.lr=abc", f"train.lr: {LR}, found 'abc'"),
        ("train.lr=", f"train.lr: {LR}, found ''"),
        ("train.lr.low=1", f"train.lr: {LR}, found {{ low = 1 }}"),
        ("train.lrr=1", f"train.lrr is not an option; did you mean 'lr'? {OPTIONS}"),
        ("train.nesterov=True", "train.nesterov: want true or false, found 'True'"),
        ("space.lr=0.1", "space.lr: want a list of values or { low = ..., high = ... }, found 0.1; ..."),
        ("space.model=[alexnet]", "space.model: want a list of values, found '[alexnet]'; ..."),
        (
            "space.optimizer=['adam']",
            "space.momentum.when.optimizer: optimizer is never 'sgd'; it is one of 'adam'",
        ),
        ("search.sampler.name=cmaes", "search.sampler.name: found 'cmaes'; allowed: ..."),
        ("search.sampler=grid", "space.lr: sampler 'grid' wants lists or [[points]], found a range"),
    ],
)
def test_a_set_value_is_checked_like_the_files(refused, text, said):
    line = refused("quickstart", "--set", text)
    assert_said(line, f"{file.find('quickstart')}: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.lr=inf", "--set: train.lr: want a finite number, found inf"),
        (
            "train.dataset=folder:\udcff",
            "--set: train.dataset: want a text in UTF-8, found 'folder:\\udcff'",
        ),
        ("train.epochs.x=1", "--set train.epochs.x=1: epochs is 3, not a table; set that as a whole"),
        (
            "space.batch_size.low=1",
            "--set space.batch_size.low=1: batch_size is [16, 32, 64], not a table; set that as a whole",
        ),
    ],
)
def test_a_set_value_that_no_file_could_hold_is_refused(refused, text, said):
    assert refused("quickstart", "--set", text) == said


@pytest.mark.parametrize(
    "text", ["space = 3", "train = 3", "points = 3", "points = [1]", "[points]\na = 1", "search = 3"]
)
@pytest.mark.parametrize("set_", ["train.optimizer=adam", "space.lr=[0.1]", "search.sampler.name=tpe"])
def test_a_set_finds_nothing_to_trip_over_in_a_broken_file(refused, tmp_path, text, set_):
    refused(str(written(tmp_path, text)), "--set", set_)


# Settings queued by hand


def test_a_setting_by_hand_is_checked_and_typed(tmp_path):
    found = read(tmp_path, FINETUNE)
    point = file.by_hand(found, ["lr=1e-2", "optimizer = adam", "epochs=3"])
    assert point.setting == {"lr": 0.01, "optimizer": "adam", "epochs": 3}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["lr"], "'lr': want KEY=VALUE, as lr=0.001"),
        (["=3"], "'=3': want KEY=VALUE, as lr=0.001"),
        (["lr=x"], f"study 'finetune': setting.lr: {LR}, found 'x'"),
        (["lr=nan"], "study 'finetune': lr: want a finite number, found nan"),
        (["lrr=1"], f"study 'finetune': setting.lrr is not an option; did you mean 'lr'? {POINT_OPTIONS}"),
        (
            ["gamma=0.5"],
            "study 'finetune': gamma is fixed at 0.1; a setting may name model, optimizer, lr, ...",
        ),
        (["dataset=mnist"], "study 'finetune': dataset is fixed at 'cifar10'; a setting may name ..."),
        (
            ["model=resnet50"],
            "study 'finetune': setting.model: found 'resnet50', outside of what space.model searches ...",
        ),
        (
            ["optimizer=adam", "momentum=0.5"],
            "study 'finetune': setting.momentum: optimizer 'adam' has no momentum; ...",
        ),
    ],
)
def test_a_wrong_setting_by_hand_is_refused(tmp_path, texts, said):
    with pytest.raises(errors.DefinitionError) as caught:
        file.by_hand(read(tmp_path, FINETUNE), texts)
    assert_said(str(caught.value), said)


def test_a_setting_by_hand_takes_images_that_its_model_takes(tmp_path):
    found = read(tmp_path, TRAIN + GRID + "[[points]]\nmodel = 'resnet18'\n")
    with pytest.raises(errors.DefinitionError, match=r"setting\.image_size: model 'alexnet' does not"):
        file.by_hand(found, ["model=alexnet"])
