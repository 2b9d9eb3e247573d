"""Study files whose options of fine-tuning do not fit to each other."""

from tests.support.study_files import GRID, POINT, SPACE, TRAIN, in_point, in_space

# What is wrong -> the file's text, the error message
WRONG_CONTROLS: dict[str, tuple[str, str]] = {
    "lowest rate above the rate": (
        f"{TRAIN}min_lr = 0.2\n{SPACE}",
        "min_lr: 0.2 is above lr 0.1, from which the schedule descends; lower it",
    ),
    "lowest rate above the low end of a range": (
        in_space("lr = { low = 1e-4, high = 0.1 }\nmin_lr = { low = 0.0, high = 1e-3 }"),
        "min_lr: 0.001 is above lr 0.0001, ...",
    ),
    "lowest rate above the rate of a point": (
        in_point("lr = 0.1\nmin_lr = 0.2"),
        "points[1].min_lr: 0.2 is above lr 0.1, ...",
    ),
    "lowest rate of what is constant": (
        f"{TRAIN}schedule = 'constant'\nmin_lr = 1e-5\n{SPACE}",
        "train.min_lr: schedule 'constant' has no min_lr; it is for step, exponential, cosine, ...",
    ),
    "lowest rate searched for what is constant": (
        in_space("min_lr = [0.0, 1e-5]\nschedule = ['constant']"),
        "space.min_lr: schedule 'constant' has no min_lr; it is for step, exponential, cosine, ...",
    ),
    "rate of the head where nothing else is trained": (
        f"{TRAIN}tune = 'head'\nhead_lr_multiplier = 10.0\n{SPACE}",
        "train.head_lr_multiplier: tune 'head' has no head_lr_multiplier; it is for all; leave it out",
    ),
    "rate of the head in a point where nothing else is trained": (
        f"{TRAIN}tune = 'head'\n{GRID}{POINT}[[points]]\nhead_lr_multiplier = 10.0",
        "points[2].head_lr_multiplier: tune 'head' has no head_lr_multiplier; it is for all; leave it out",
    ),
    "norms without decay where nothing decays": (
        f"{TRAIN}decay_norms = false\n{SPACE}",
        "train.decay_norms: weight_decay is 0, so nothing decays; leave it out, or give a weight_decay",
    ),
    "several controls at once": (
        f"{TRAIN}decay_norms = false\nmin_lr = 0.2\ntune = 'head'\nhead_lr_multiplier = 2.0\n{SPACE}",
        "3 problems: (1) min_lr: 0.2 is above lr 0.1, from which the schedule descends; lower it; "
        "(2) train.head_lr_multiplier: tune 'head' has no ...",
    ),
    "layers with rates of their own where only the head is trained": (
        f"{TRAIN}tune = 'head'\nlayer_decay = 0.7\nfreeze_epochs = 1\n{SPACE}",
        "2 problems: (1) train.layer_decay: tune 'head' has no layer_decay; it is for all; leave it out; "
        "(2) train.freeze_epochs: tune 'head' has no freeze_epochs; ...",
    ),
    "all epochs frozen": (
        f"{TRAIN}freeze_epochs = 2\n{SPACE}",
        "freeze_epochs: 2 of 2 epochs leave none in which all layers are trained; use tune = 'head'",
    ),
    "all epochs of a point frozen": (
        f"{TRAIN}freeze_epochs = 1\n{GRID}{POINT}[[points]]\nepochs = 1",
        "points[2].freeze_epochs: 1 of 1 epochs leave none in which all layers are trained; ...",
    ),
    "all epochs frozen at one end": (
        in_space("freeze_epochs = { low = 0, high = 2 }"),
        "freeze_epochs: 2 of 2 epochs leave none in which all layers are trained; ...",
    ),
    "stochastic depth of a model without": (
        f"{TRAIN}drop_path = 0.1\n{SPACE}",
        "drop_path: model 'resnet18' has no stochastic depth; leave it out, or search it with "
        'when = { model = "..." } for a model that has',
    ),
    "stochastic depth and dropout of a model without": (
        f"{TRAIN}drop_path = 0.1\ndropout = 0.1\n{SPACE}",
        "2 problems: (1) dropout: model 'resnet18' has no dropout; leave it out, or search it with "
        'when = { model = "..." } for a model that has; (2) drop_path: ...',
    ),
    "stochastic depth in points of models without": (
        f"{TRAIN}{GRID}{POINT}[[points]]\ndrop_path = 0.1\n[[points]]\ndrop_path = 0.1\nmodel = 'vgg11'",
        "2 problems: (1) points[2].drop_path: model 'resnet18' has no ...",
    ),
    "learning rate of a head that a network does not name": (
        f"{TRAIN}model = 'tests.support.networks:Small'\nhead_lr_multiplier = 2.0\n"
        "[space]\nlayer_decay = [0.5, 1.0]",
        "model: 'tests.support.networks:Small' does not say which layer is its head; leave out "
        "layer_decay, head_lr_multiplier, or let the network have a method "
        "get_classifier() that returns its last layer",
    ),
}
