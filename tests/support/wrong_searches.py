"""Study files whose ranges, conditions, points or sampler are wrong."""

from tests.support.study_files import (
    BOTH,
    GRID,
    LR,
    NAME,
    POINT,
    SEARCHABLE,
    SPACE,
    TRAIN,
    in_point,
    in_search,
    in_space,
)

# What is wrong -> the file's text, the error message
WRONG_SEARCHES: dict[str, tuple[str, str]] = {  # lists and ranges
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

WRONG_SEARCHES |= {  # conditions
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

MIXED = "loss 'multi_margin' is not defined for mixed images;"
MIXABLE = "is for cross_entropy, focal; leave"

WRONG_SEARCHES |= {  # mixed images and the loss
    "mixup searched where the loss has none": (
        f"{TRAIN}loss = 'multi_margin'\n[space]\nmixup_alpha = [0.0, 0.2]",
        "space.mixup_alpha: loss 'multi_margin' has no mixup_alpha; it is for cross_entropy, focal; "
        "leave it out",
    ),
    "images mixed for another loss": (
        f"{TRAIN}loss = 'multi_margin'\nmixup_alpha = 0.2\ncutmix_alpha = 1.0\n{SPACE}",
        f"2 problems: (1) mixup_alpha: {MIXED} mixup_alpha {MIXABLE} mixup_alpha out, or use another loss; "
        f"(2) cutmix_alpha: {MIXED} cutmix_alpha {MIXABLE} cutmix_alpha out, or use another loss",
    ),
    "images mixed where another loss is searched": (
        f"{TRAIN}cutmix_alpha = 1.0\n[space]\nloss = ['focal', 'multi_margin']",
        f"cutmix_alpha: {MIXED} cutmix_alpha {MIXABLE} cutmix_alpha out, or use another loss",
    ),
    "images mixed for the loss of a point": (
        f"{TRAIN}mixup_alpha = 0.2\n{GRID}{POINT}[[points]]\nlr = 0.2\nloss = 'multi_margin'",
        f"points[2].mixup_alpha: {MIXED} mixup_alpha {MIXABLE} mixup_alpha out, or use another loss",
    ),
}

WRONG_SEARCHES |= {  # points
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

WRONG_SEARCHES |= {  # whole studies
    "fixed and searched": (
        f"{TRAIN}lr = 0.1\n{SPACE}",
        "lr: both fixed in [train] and searched in [space]; keep one",
    ),
    "space that is no table": ("space = 3", "space: want a table, found 3"),
    "train that is a list": ("train = [1]", "train: want a table, found [1]"),
    "unknown strategy": ("search = { strategy = 'best' }", "search.strategy: found 'best'; allowed: auto"),
    "misspelt strategy": (
        "search = { strategy = 'aut' }",
        "search.strategy: found 'aut'; did you mean 'auto'? allowed: auto",
    ),
    "search that is a word": ("search = 'tpe'", "search: want a table, found 'tpe'"),
    "sampler that is a number": (in_search("sampler = 3"), "search.sampler: want a table, found 3"),
    "CMA-ES": (
        in_search("sampler = 'cmaes'"),
        "search.sampler.name: found 'cmaes'; allowed: tpe, freeze_thaw, gp, nsgaii, qmc, random, grid",
    ),
    "unknown pruner": (
        in_search("pruner = { name = 'hyperbnd' }"),
        "search.pruner.name: found 'hyperbnd'; did you mean 'hyperband'? "
        "allowed: asha, freeze_thaw, hyperband, median, percentile, patient, none",
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

KNOWN = "accuracy, balanced_accuracy, f1, auroc, top5_accuracy, loss"
WANTED = f"search.objectives: want two or more of {KNOWN}, epoch_seconds, parameters, latency_ms, each once"
WRONG_SEARCHES |= {  # several objectives
    "unknown objective": (
        in_search("objectives = ['accuracy', 'paramters']"),
        f"{WANTED}, found ['accuracy', 'paramters']",
    ),
    "one objective": (
        in_search("objectives = ['accuracy']"),
        f"{WANTED}, found ['accuracy']; a single metric is train.metric",
    ),
    "objective twice": (
        in_search("objectives = ['f1', 'f1']"),
        f"{WANTED}, found ['f1', 'f1']",
    ),
    "objectives without a metric": (
        in_search("objectives = ['parameters', 'latency_ms']"),
        f"search.objectives: want at least one metric, of {KNOWN}; found ['parameters', 'latency_ms']",
    ),
    "metric that is not the first of the objectives": (
        f"{TRAIN}metric = 'f1'\n{SPACE}[search]\nobjectives = ['accuracy', 'f1']",
        "train.metric: 'f1' is not 'accuracy', the first metric of search.objectives, which trials report "
        "after each epoch; leave it out",
    ),
    "options of a single objective": (
        in_search(
            "objectives = ['accuracy', 'parameters']\ntarget = 0.9\nstart_from = ['a']\npruner = 'median'\n"
            "sampler = 'freeze_thaw'"
        ),
        "4 problems: (1) search.target: is for a single objective; leave it out; (2) search.start_from: "
        "is for a single objective; leave it out; (3) search.pruner: 'median' compares a single objective; "
        "with several, want one of asha, hyperband, none; (4) search.sampler: 'freeze_thaw' models ...",
    ),
}
