"""Study files with a wrong key or value."""

from tests.support.study_files import (
    GRID,
    LR,
    OPTIONS,
    POINT,
    POINT_OPTIONS,
    SEARCHABLE,
    SOME_MODELS,
    SPACE,
    TRAIN,
    in_point,
    in_search,
    in_space,
)

# What is wrong -> the file's text, the error message
WRONG_OPTIONS: dict[str, tuple[str, str]] = {  # keys
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
        "options: chance_epochs, deadline, device_hours, direction, epochs, keep_weights, max_attempts, "
        "max_failures, metric_name, objectives, prune_points, pruner, replicates, sampler, start_from, "
        "strategy, target, track, trials",
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

WRONG_OPTIONS |= {  # types and ranges
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
        "train.objective: want package.module:function, which yields (value, state) after each epoch, "
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
    "no patience": (
        "[train]\nearly_stopping = 0",
        "train.early_stopping: want a whole number, at least 1 and at most 100000, found 0",
    ),
    "average that never moves": (
        "[train]\nema_decay = 1",
        "train.ema_decay: want a number, above 0 and below 1, found 1",
    ),
    "norm of 0": (
        "[train]\nclip_grad_norm = 0.0",
        "train.clip_grad_norm: want a number, above 0, found 0.0",
    ),
    "no batches in a step": (
        in_point("accumulate_steps = 0"),
        "points[1].accumulate_steps: want a whole number, at least 1 and at most 65536, found 0",
    ),
    "head without a learning rate": (
        "[train]\nhead_lr_multiplier = 0",
        "train.head_lr_multiplier: want a number, above 0 and at most 1000, found 0",
    ),
    "unknown word": (
        "[train]\noptimizer = 'adamax'",
        "train.optimizer: found 'adamax'; did you mean 'adam'? allowed: sgd, adam, adamw, rmsprop",
    ),
    "augmentation of another library": (
        "[train]\nauto_augment = 'trivial_augment_wide'",
        "train.auto_augment: found 'trivial_augment_wide'; did you mean 'trivialaugment'? allowed: none, "
        "randaugment, trivialaugment",
    ),
    "percentage of erased images": (
        "[train]\nrandom_erasing = 25",
        "train.random_erasing: want a number, at least 0 and at most 1, found 25",
    ),
    "negative parameter of a Beta distribution": (
        "[train]\nmixup_alpha = -0.2",
        "train.mixup_alpha: want a number, at least 0 and at most 100, found -0.2",
    ),
    "way to resize": (
        "[train]\nresize = 'letterbox'",
        "train.resize: found 'letterbox'; allowed: crop, pad, squash",
    ),
    "limit on pixels that no image keeps": (
        "[train]\nmax_pixels = 0",
        "train.max_pixels: want a whole number, at least 64 and below 2147483648, found 0",
    ),
    "place of decoded images": (
        "[train]\ncache = 'ram'",
        "train.cache: found 'ram'; allowed: auto, memory, disk",
    ),
    "colour behind transparent pixels": (
        "[train]\ntransparency = 'grey'",
        "train.transparency: found 'grey'; allowed: white, black, drop",
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
        "search.target: want a value of accuracy, above 0 and at most 1, found 95",
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

WRONG_OPTIONS |= {  # models, data and weights
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
        "train.dataset: found 'cifar-10'; did you mean 'cifar10'? allowed: cifar10, cifar100, svhn, stl10, "
        "mnist, fashion_mnist, digits, flowers102, oxford_pets, food101, eurosat, dtd, imagenette, "
        "folder:PATH, list:FILE.csv, hf:OWNER/NAME",
    ),
    "folder without a path": (
        "[train]\ndataset = 'folder:'",
        "train.dataset: found 'folder:'; did you mean 'folder:PATH'? allowed: ...",
    ),
    "list without a path": (
        "[train]\ndataset = 'list:'",
        "train.dataset: found 'list:'; did you mean 'list:FILE.csv'? allowed: ...",
    ),
    "data set of the hub without a name": (
        "[train]\ndataset = 'hf:'",
        "train.dataset: found 'hf:'; did you mean 'hf:OWNER/NAME'? allowed: ...",
    ),
    "data set under torchvision's name": (
        "[train]\ndataset = 'OxfordIIITPet'",
        "train.dataset: found 'OxfordIIITPet'; did you mean 'oxford_pets'? allowed: ...",
    ),
    "weights that are no file": (
        "[space]\nweights = ['none', 'imagnet']",
        "space.weights[2]: found 'imagnet', and there is no such file; did you mean 'imagenet'? "
        "allowed: imagenet, none, torchvision's name of weights (such as IMAGENET1K_V2 or DEFAULT), timm's "
        "tag, or the path of a file",
    ),
    "weights in lower case": (
        "[train]\nweights = 'imagenet1k_v2'",
        "train.weights: found 'imagenet1k_v2', and there is no such file; did you mean ...",
    ),
    "weights that the model lacks": (
        in_point("weights = 'IMAGENET1K_V3'"),
        "points[1].weights: model 'resnet18' has no weights 'IMAGENET1K_V3'; did you mean "
        "'IMAGENET1K_V1'? it has IMAGENET1K_V1, DEFAULT",
    ),
    "weights that some models of a space lack": (
        "[space]\nmodel = ['resnet18', 'resnet50', 'alexnet']\nweights = ['none', 'IMAGENET1K_V2']",
        "2 problems: (1) weights: model 'resnet18' has no weights 'IMAGENET1K_V2'; did you mean "
        "'IMAGENET1K_V1'? it has IMAGENET1K_V1, DEFAULT; (2) weights: model 'alexnet' has no weights ...",
    ),
    "way to preprocess": (
        "[train]\npreprocessing = 'timm'",
        "train.preprocessing: found 'timm'; allowed: weights, imagenet",
    ),
    "preprocessing that differs between trials": (
        in_space("preprocessing = ['weights', 'imagenet']"),
        "space.preprocessing: cannot be searched, since trials that differ in it cannot be ...",
    ),
    "weights below nobody's home": (
        "[train]\nweights = '~nobody-at-all/x.pth'",
        "train.weights: found '~nobody-at-all/x.pth', and there is no such file; allowed: ...",
    ),
}

WRONG_OPTIONS |= {  # TOML
    "no TOML": ("x = = 3", "not a TOML file: Invalid value (at line 1, column 5)"),
    "key given twice": (
        "[train]\nlr = 0.1\nlr = 0.2",
        "not a TOML file: Cannot overwrite a value (at end of document)",
    ),
    "nesting without end": (f"x = {10000 * '['}", "not a TOML file: maximum recursion depth ..."),
    "number with 5000 digits": (f"[train]\nlr = {5000 * '9'}", "not a TOML file: Exceeds the limit ..."),
}
