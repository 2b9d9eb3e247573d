"""How the time of a step is measured, and computed for batches that would take too long."""

import pytest

from hpo.analysis import epoch_cost, step_timing


def test_steps_are_made_until_their_mean_is_known_well_enough():
    assert not step_timing.is_good_enough([])
    assert not step_timing.is_good_enough([0.5]), "it may have warmed up"
    assert step_timing.is_good_enough([3.5]), "too slow to be made again"
    assert not step_timing.is_good_enough([0.5, 0.1])
    assert step_timing.is_good_enough([0.5, 0.1, 0.1])
    assert not step_timing.is_good_enough([0.5, 0.1, 0.2])
    assert step_timing.is_good_enough([0.5, 0.1, 0.2, 0.1, 0.2, 0.1]), "no more than six"


class Machine:
    """Measures costs in which a step takes a fixed time and a time per image."""

    def __init__(self, fixed: float, per_image: float, largest: int = 1000, slowdown: float = 1.0) -> None:
        self.fixed, self.per_image = fixed, per_image
        self.largest, self.slowdown = largest, slowdown
        self.measured: list[int] = []

    def measure(self, size: int) -> step_timing.MeasuredCost | None:
        self.measured.append(size)
        if size > self.largest:
            return None
        return step_timing.MeasuredCost(
            step_seconds=self.fixed + size * self.per_image,
            image_seconds=0.01,
            busy_seconds=(self.fixed + size * self.per_image) / self.slowdown,
            peak_gib=1 + size / 4,
            weights_bytes=100,
            checkpoint_bytes=200,
        )


def test_short_steps_are_measured_with_each_batch_size():
    machine = Machine(fixed=0.01, per_image=0.001)
    costs = epoch_cost.CostsByBatchSize(machine.measure)
    found = [costs.find(size) for size in (8, 16, 64, 16)]
    assert machine.measured == [2, 8, 16, 64]
    assert [each and each.step_seconds for each in found] == pytest.approx([0.018, 0.026, 0.074, 0.026])


def test_what_else_runs_on_the_machine_does_not_make_steps_slow():
    machine = Machine(fixed=0.5, per_image=0.25, slowdown=100)
    assert epoch_cost.CostsByBatchSize(machine.measure).find(64)
    assert machine.measured == [2, 64]


def test_slow_steps_are_computed_from_those_with_few_images():
    machine = Machine(fixed=0.5, per_image=0.25)
    costs = epoch_cost.CostsByBatchSize(machine.measure)
    large, small = costs.find(64), costs.find(8)
    assert machine.measured == [2, 4]
    assert large is not None
    assert small is not None
    assert (large.step_seconds, large.peak_gib) == (pytest.approx(16.5), pytest.approx(17))
    assert (small.step_seconds, small.peak_gib) == (pytest.approx(2.5), pytest.approx(3))
    assert large.weights_bytes == 100


def test_batches_as_large_as_short_steps_allow_are_measured_for_that():
    machine = Machine(fixed=0.0, per_image=0.05)
    assert epoch_cost.CostsByBatchSize(machine.measure).find(64)
    assert machine.measured == [2, 4, 8, 16]


def test_slow_steps_with_another_optimizer_differ_by_what_the_smallest_batch_tells():
    sgd, adam = Machine(fixed=0.5, per_image=0.25), Machine(fixed=0.75, per_image=0.25)
    found = epoch_cost.CostsByBatchSize(adam.measure, epoch_cost.CostsByBatchSize(sgd.measure)).find(64)
    assert (sgd.measured, adam.measured) == ([2, 4], [2])
    assert found is not None
    assert found.step_seconds == pytest.approx(0.75 + 16)


def test_short_steps_with_another_optimizer_are_measured():
    sgd, adam = Machine(fixed=0.01, per_image=0.001), Machine(fixed=0.02, per_image=0.002)
    found = epoch_cost.CostsByBatchSize(adam.measure, epoch_cost.CostsByBatchSize(sgd.measure)).find(64)
    assert adam.measured == [2, 64]
    assert found is not None
    assert found.step_seconds == pytest.approx(0.148)


def test_steps_that_do_not_fit_with_another_optimizer_are_computed_from_ones_that_do():
    adam, sgd = Machine(fixed=0.5, per_image=0.25, largest=2), Machine(fixed=0.5, per_image=0.25)
    found = epoch_cost.CostsByBatchSize(sgd.measure, epoch_cost.CostsByBatchSize(adam.measure)).find(64)
    assert sgd.measured == [2, 4]
    assert found is not None
    assert found.step_seconds == pytest.approx(16.5)


def test_what_does_not_fit_with_few_images_does_not_fit_with_many():
    assert epoch_cost.CostsByBatchSize(Machine(0.5, 0.25, largest=2).measure).find(64) is None
    assert epoch_cost.CostsByBatchSize(Machine(0.5, 0.25, largest=1).measure).find(64) is None
    assert epoch_cost.CostsByBatchSize(Machine(0.0, 0.01, largest=32).measure).find(64) is None
