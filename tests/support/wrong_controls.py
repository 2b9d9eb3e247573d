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
}
