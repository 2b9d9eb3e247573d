"""Study files for tests: a valid one, and invalid ones that must be refused."""

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
"""  # noqa: E501  # the documented example, verbatim


TRAIN = '[train]\ndataset = "digits"\nimage_size = 32\nweights = "none"\nepochs = 2\n'


SPACE = "[space]\nlr = [0.1, 0.2]\n"


GRID = '[search]\nsampler = "grid"\n'


BOTH = "optimizer = ['sgd', 'adam']"
POINT = "[[points]]\nlr = 0.1\n"


OPTIONS = f"options: {', '.join(sorted(config.OPTIONS))}"


SEARCHABLE = f"options: {', '.join(sorted(config.SEARCHABLE))}"


POINT_OPTIONS = f"options: {', '.join(sorted([*config.SEARCHABLE, 'attributes', 'site']))}"


LR = "want a number, above 0 and at most 100"


NAME = "name: want 1 to 100 printable characters, without '/', a space at an end or a '-' in front"


SOME_MODELS = (
    "some it has: alexnet, vgg16, resnet18, resnet50, mobilenet_v3_small, efficientnet_b0, vit_b_16"
)


CASES: dict[str, tuple[str, str]] = {}  # what is wrong -> the file's text, the error message


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
    "number for a boolean": ("[train]\nnesterov = 1", "train.nesterov: want true or false, found 1"),
    "file for an objective": (
        '[train]\nobjective = "own/module.py:climb"',
        "train.objective: want package.module:function, which yields (accuracy, state) after each epoch, "
        "found 'own/module.py:climb'",
    ),
    "number for a text": ("[train]\nmodel = 18", "train.model: want a string, found 18"),
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
        "train.weights: want a string, of a length of at least 1, found ''",
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
    "log that is no boolean": (
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
        "space.lr.step: steps of 0.1 from 0.1 do not reach high 0.95 exactly; "
        "the last value would be 0.9, so use that as high",
    ),
    "whole step that misses the end": (
        in_space("batch_size = { low = 8, high = 63, step = 8 }"),
        "space.batch_size.step: steps of 8 from 8 do not reach high 63 exactly; "
        "the last value would be 56, so use that as high",
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
    "number among booleans": (
        in_space("nesterov = [true, 0]"),
        "space.nesterov[2]: want true or false, found 0",
    ),
    "combinations without end": (
        in_space(
            "", "".join(f"{n} = {list(range(1, 1001))}\n" for n in ("batch_size", "step_size")) + GRID
        ),
        "space: sampler 'grid' would run more than 100000 combinations; shorten the lists",
    ),
}


CASES |= {  # conditions
    "when on an unknown option": (
        in_space("lr = { low = 0.1, high = 0.2, when = { optimiser = 'sgd' } }", BOTH),
        f"space.lr.when.optimiser is not an option; did you mean 'optimizer'? {SEARCHABLE}",
    ),
    "when on a study-wide option": (
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
        "space.lr.when.optimizer: want one value or more, found []",
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
        "space: circular conditions: optimizer; remove a 'when'",
    ),
    "circular conditions": (
        in_space(
            "model = { choices = ['resnet18', 'vgg16'], when = { optimizer = 'sgd' } }",
            "optimizer = { choices = ['sgd', 'adam'], when = { model = 'vgg16' } }",
        ),
        "space: circular conditions: model, optimizer; remove a 'when'",
    ),
    "circular conditions through an option's use": (
        in_space(
            "momentum = [0.0, 0.9]", "optimizer = { choices = ['sgd', 'adam'], when = { momentum = 0.9 } }"
        ),
        "space: circular conditions: momentum, optimizer; remove a 'when'",
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
    "site that is no text": (in_point("site = 3"), "points[1].site: want a string, found 3"),
    "attributes that are no table": (
        in_point("attributes = 'C'"),
        "points[1].attributes: want a table, found 'C'",
    ),
    "attribute given twice": (
        in_point("site = 'C'\nattributes = { site = 'C' }"),
        "points[1].attributes.site: points[1].site gives it already; keep one",
    ),
    "attribute that hpo writes itself": (
        in_point("attributes = { hardware = 'a laptop' }"),
        "points[1].attributes.hardware: use another name; hpo itself writes these attributes ...",
    ),
    "attribute with a space in its name": (
        in_point("attributes = { 'the room' = 3 }"),
        "points[1].attributes.'the room': want a name of letters, digits and '_' that begins with a "
        "letter, found 'the room'",
    ),
    "attribute that is a list": (
        in_point("attributes = { rooms = [3, 4] }"),
        "points[1].attributes.rooms: want a number, a string, true or false, found [3, 4]",
    ),
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
    "points that are numbers": (
        "points = [1, 2]",
        "2 problems: (1) points[1]: want a table, found 1; (2) points[2]: want a table, found 2",
    ),
}


CASES |= {  # whole studies
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
        "image_size: model 'alexnet' does not accept images of 32 x 32 pixels (Given input size: "
        "(256x1x1). Calculated output size: (256x0x0). Output size is too small); use 64, for example",
    ),
    "images too small for one point": (
        f"{TRAIN}{GRID}{POINT}[[points]]\nmodel = 'alexnet'",
        "points[2].image_size: model 'alexnet' does not accept images of 32 x 32 pixels ...",
    ),
    "images too small at one end": (
        "[space]\nmodel = ['alexnet', 'resnet18']\nimage_size = { low = 32, high = 64 }",
        "image_size: model 'alexnet' does not accept images of 32 x 32 pixels ...",
    ),
    "images of another size than the only one": (
        in_point("model = 'vit_b_16'"),
        "points[1].image_size: model 'vit_b_16' does not accept images of 32 x 32 pixels (Wrong image "
        "height! Expected 224 but got 32!); use 224, for example",
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
        "allowed: imagenet, none, or the path of a file",
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
