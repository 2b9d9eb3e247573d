import pytest
import torch
from torch.optim import lr_scheduler

from hpo.training import config, schedules

STEPS = 3  # per epoch


def all_rates(settings: config.Config) -> list[float]:
    return [
        schedules.learning_rate(settings, epoch, step, STEPS)
        for epoch in range(1, settings.epochs + 1)
        for step in range(STEPS)
    ]


@pytest.mark.parametrize("kind", ["step", "exponential", "constant", "onecycle"])
def test_no_schedule_falls_below_the_lowest_rate_and_none_rises_to_it(kind):
    settings = config.Config(schedule=kind, lr=0.05, step_size=4, gamma=0.3, epochs=13)
    floor = 0.006
    plain, found = all_rates(settings), all_rates(settings.model_copy(update={"min_lr": floor}))
    peak = plain.index(max(plain))
    assert found == plain[:peak] + [max(rate, floor) for rate in plain[peak:]]
    assert (found != plain) is (kind != "constant")


def test_cosine_ends_at_the_lowest_rate_as_torchs():
    settings = config.Config(schedule="cosine", lr=0.05, min_lr=0.01, epochs=13, warmup_epochs=1)
    sgd = optimizer(0.05)
    scheduler = lr_scheduler.CosineAnnealingLR(sgd, T_max=12, eta_min=0.01)
    expected = scheduler_rates(sgd, scheduler, 12)
    assert all_rates(settings)[STEPS:] == pytest.approx(expected, rel=1e-9)


def optimizer(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def scheduler_rates(sgd: torch.optim.Optimizer, scheduler, epochs: int) -> list[float]:
    rates = []
    for _ in range(epochs):
        for _ in range(STEPS):
            rates.append(sgd.param_groups[0]["lr"])
            sgd.step()
        scheduler.step()
    return rates


def torch_scheduler(kind: str, sgd: torch.optim.Optimizer, epochs: int) -> lr_scheduler.LRScheduler:
    if kind == "step":
        return lr_scheduler.StepLR(sgd, step_size=4, gamma=0.3)
    if kind == "exponential":
        return lr_scheduler.ExponentialLR(sgd, gamma=0.3)
    if kind == "cosine":
        return lr_scheduler.CosineAnnealingLR(sgd, T_max=epochs)
    return lr_scheduler.ConstantLR(sgd, factor=1.0)


@pytest.mark.parametrize("warmup", [0, 1, 4])
@pytest.mark.parametrize("kind", ["step", "exponential", "cosine", "constant"])
def test_rates_after_the_warm_up_equal_torchs_scheduler(kind, warmup):
    settings = config.Config(
        schedule=kind, lr=0.05, step_size=4, gamma=0.3, epochs=13, warmup_epochs=warmup
    )
    rates = all_rates(settings)
    sgd = optimizer(0.05)
    epochs = 13 - warmup
    expected = scheduler_rates(sgd, torch_scheduler(kind, sgd, epochs), epochs)
    assert rates[warmup * STEPS :] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("warmup", [1, 4, 13])
def test_the_warm_up_is_linear_and_ends_at_the_rate(warmup):
    settings = config.Config(lr=0.05, epochs=13, warmup_epochs=warmup)
    total = warmup * STEPS
    sgd = optimizer(0.05)
    scheduler = lr_scheduler.LambdaLR(sgd, lambda step: (step + 1) / total)
    expected = []
    for _ in range(total):
        expected.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    rates = all_rates(settings)[:total]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[0] == pytest.approx(0.05 / total)
    assert rates[-1] == 0.05


@pytest.mark.parametrize("epochs", [1, 2, 10, 13])
def test_one_cycle_equals_torchs_at_every_step(epochs):
    sgd = optimizer(0.05)
    scheduler = lr_scheduler.OneCycleLR(
        sgd, max_lr=0.05, epochs=epochs, steps_per_epoch=STEPS, cycle_momentum=False
    )
    expected = []
    for step in range(epochs * STEPS):
        expected.append(sgd.param_groups[0]["lr"])
        sgd.step()
        if step < epochs * STEPS - 1:
            scheduler.step()
    rates = all_rates(config.Config(schedule="onecycle", lr=0.05, epochs=epochs))
    assert rates == pytest.approx(expected, rel=1e-9)


def test_one_cycle_of_a_single_step_equals_torchs():
    sgd = optimizer(0.05)
    lr_scheduler.OneCycleLR(sgd, max_lr=0.05, total_steps=1, cycle_momentum=False)
    settings = config.Config(schedule="onecycle", lr=0.05, epochs=1)
    assert schedules.learning_rate(settings, 1, 0, 1) == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-9)


def test_one_cycle_ignores_warmup_epochs():
    plain = config.Config(schedule="onecycle", epochs=5)
    assert all_rates(plain.model_copy(update={"warmup_epochs": 2})) == all_rates(plain)


def test_the_reports_schedule_divides_the_rate_by_ten_every_five_epochs():
    settings = config.Config()
    rates = [schedules.learning_rate(settings, epoch, 0, 3125) for epoch in (1, 5, 6, 10, 11, 20)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6])
