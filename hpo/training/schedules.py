"""The learning rate of every step, as a pure function of where the step stands.

Nothing is carried from step to step, so a resumed run needs no scheduler state.
"""

import math

from hpo.training.config import Config

# torch.optim.lr_scheduler.OneCycleLR's defaults.
ONE_CYCLE_RISE = 0.3  # share of all steps in which the rate rises
START_DIVISOR = 25.0  # lr over the rate of the first step
END_DIVISOR = 1e4  # the rate of the first step over that of the last one


def learning_rate(config: Config, epoch: int, step: int, steps: int) -> float:
    """Give the learning rate of 0-based ``step`` of ``steps`` in 1-based ``epoch``.

    In ``warmup_epochs`` it rises by an equal amount each step and reaches ``config.lr`` at the last
    one; after them the schedule counts its epochs from 0. The schedules are torch's StepLR,
    ExponentialLR, CosineAnnealingLR (to 0, over the epochs after warm-up) and OneCycleLR. The last one
    changes with every step, the others with every epoch. OneCycleLR is a warm-up of its own over all
    epochs: ``warmup_epochs`` does not count there.
    """
    done = (epoch - 1) * steps + step  # steps before this one
    if config.schedule == "onecycle":
        return config.lr * _one_cycle_factor(done, config.epochs * steps)
    if epoch <= config.warmup_epochs:
        return config.lr * ((done + 1) / (config.warmup_epochs * steps))
    return config.lr * _decay_factor(config, epoch - 1 - config.warmup_epochs)


def warmup_epoch_count(config: Config) -> int:
    """Give the epochs, whole or begun, in which the learning rate rises."""
    return (
        math.ceil(ONE_CYCLE_RISE * config.epochs) if config.schedule == "onecycle" else config.warmup_epochs
    )


def _decay_factor(config: Config, count: int) -> float:
    """Give the factor on the learning rate ``count`` whole epochs after warm-up."""
    if config.schedule == "step":
        return config.gamma ** (count // config.step_size)
    if config.schedule == "exponential":
        return config.gamma**count
    if config.schedule == "cosine":
        return _cosine_between(1.0, 0.0, count / (config.epochs - config.warmup_epochs))
    return 1.0


def _one_cycle_factor(done: int, total: int) -> float:
    """Give the factor on the learning rate after ``done`` of ``total`` steps."""
    start = 1 / START_DIVISOR
    peak = ONE_CYCLE_RISE * total - 1
    if done <= peak:
        return _cosine_between(start, 1.0, done / peak)
    return _cosine_between(1.0, start / END_DIVISOR, (done - peak) / (total - 1 - peak))


def _cosine_between(start: float, end: float, share: float) -> float:
    """Go from ``start`` to ``end`` along half a cosine, of which ``share`` (0 to 1) is done."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
