"""The learning rate of every step, as a pure function of the position in training.

Nothing is carried from step to step, so a resumed run needs no scheduler state.
"""

import math

from hpo.training.config import Config

# Defaults of torch.optim.lr_scheduler.OneCycleLR.
ONE_CYCLE_RISE = 0.3  # fraction of all steps in which the rate rises
START_DIVISOR = 25.0  # config.lr divided by the rate of the first step
END_DIVISOR = 1e4  # the rate of the first step divided by that of the last one


def learning_rate(config: Config, epoch: int, step: int, steps: int) -> float:
    """Return the learning rate of one step.

    In the first ``config.warmup_epochs`` epochs the rate rises by an equal amount each step and reaches
    ``config.lr`` at the last one. After them the schedule counts its epochs from 0.

    The schedules are torch's StepLR, ExponentialLR, CosineAnnealingLR (to ``config.min_lr``, over the
    epochs after warm-up) and OneCycleLR. OneCycleLR changes the rate at every step, the others at every
    epoch. OneCycleLR runs over all epochs and contains its own warm-up, so ``warmup_epochs`` has no effect
    there; unlike torch's, it leaves the momentum as it is. Where a schedule other than CosineAnnealingLR
    falls below ``config.min_lr``, the rate is ``config.min_lr``; a warm-up may begin below it.

    Args:
        config: The trial's settings.
        epoch: Counted from 1.
        step: Counted from 0 within the epoch: of the optimizer, not of batches.
        steps: Number of steps of every epoch.
    """
    done = (epoch - 1) * steps + step  # steps before this one
    if config.schedule == "onecycle":
        total = config.epochs * steps
        rate = config.lr * _one_cycle_factor(done, total)
        return rate if done <= _one_cycle_peak(total) else max(rate, config.min_lr)
    if epoch <= config.warmup_epochs:
        return config.lr * ((done + 1) / (config.warmup_epochs * steps))
    return _decayed_rate(config, epoch - 1 - config.warmup_epochs)


def warmup_epoch_count(config: Config) -> int:
    """Return the number of epochs in which the learning rate rises; a partial epoch counts as one."""
    if config.schedule == "onecycle":
        return math.ceil(ONE_CYCLE_RISE * config.epochs)
    return config.warmup_epochs


def _decayed_rate(config: Config, count: int) -> float:
    """Return the learning rate ``count`` whole epochs after warm-up; not for onecycle."""
    match config.schedule:
        case "step":
            return max(config.lr * config.gamma ** (count // config.step_size), config.min_lr)
        case "exponential":
            return max(config.lr * config.gamma**count, config.min_lr)
        case "cosine":
            share = count / (config.epochs - config.warmup_epochs)
            return config.lr * _cosine_between(1.0, config.min_lr / config.lr, share)
    return config.lr


def _one_cycle_factor(done: int, total: int) -> float:
    """Return the factor on the learning rate after ``done`` of ``total`` steps."""
    start = 1 / START_DIVISOR
    peak = _one_cycle_peak(total)
    if done <= peak:
        return _cosine_between(start, 1.0, done / peak)
    return _cosine_between(1.0, start / END_DIVISOR, (done - peak) / (total - 1 - peak))


def _one_cycle_peak(total: int) -> float:
    """Return after how many of ``total`` steps the rate is highest; a fraction of a step counts."""
    return ONE_CYCLE_RISE * total - 1


def _cosine_between(start: float, end: float, fraction: float) -> float:
    """Interpolate from ``start`` to ``end`` along half a cosine wave; ``fraction`` is from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
