"""A study of another tool in virtual time, with a scheduler that follows a script."""

import dataclasses
from collections.abc import Sequence

import pytest

from benchmarks.peer_simulation import Job, PeerSimulation
from hpo.analysis import recorded_curves, strategies
from hpo.analysis.recorded_curves import Curve
from hpo.analysis.simulation import Simulation
from hpo.analysis.surrogate import Surrogate
from tests.support.curve_file import EPOCHS, write_curve_file


class ScriptedScheduler:
    """Hands out jobs in order, each for a number of epochs; waits where the script says None."""

    def __init__(self, script: Sequence[tuple[Job, int] | None]) -> None:
        self.script = list(script)
        self.last_epochs: dict[int, int] = {}
        self.reports: list[tuple[int, int, float]] = []

    def next_job(self) -> Job | None:
        step = self.script.pop(0) if self.script else None
        if step is None:
            return None
        job, epochs = step
        self.last_epochs[job.trial] = self.last_epochs.get(job.trial, 0) + epochs
        return job

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        self.reports.append((trial, epoch, loss))
        return epoch < self.last_epochs[trial]


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Surrogate:
    path = tmp_path_factory.mktemp("curves") / "curves.csv"
    return Surrogate(recorded_curves.read_curves(write_curve_file(path)))


def with_curves(known: Surrogate, *curves: Curve) -> Surrogate:
    """Return a surrogate of three recorded settings with these curves first."""
    recorded = known.recorded
    replaced = (*curves, *recorded.curves[len(curves) :])
    return Surrogate(dataclasses.replace(recorded, curves=replaced))


def job(known: Surrogate, trial: int) -> Job:
    """Return a job of a trial with the recorded setting of the same number."""
    return Job(trial=trial, setting=known.recorded.settings[trial])


def simulated_epochs(known: Surrogate, scheduler: ScriptedScheduler, workers: int, most: int = 100):
    """Return the trial, its epoch and the seconds at the end of each epoch."""
    simulation = PeerSimulation(known, scheduler, workers=workers, max_epochs=most)
    ends = list(simulation.epoch_ends())
    assert [end.epochs for end in ends] == list(range(1, len(ends) + 1))
    return [(end.trial, end.epoch, pytest.approx(end.seconds)) for end in ends]


def test_one_worker_runs_jobs_in_sequence(known):
    scheduler = ScriptedScheduler([(job(known, 0), 2), (job(known, 1), 1)])
    assert simulated_epochs(known, scheduler, 1) == [(0, 1, 2.0), (0, 2, 4.0), (1, 1, 6.0)]


def test_workers_end_their_epochs_in_the_order_of_virtual_time(known):
    fast = Curve(values=(0.5,) * EPOCHS, total_seconds=EPOCHS * 0.75)
    faster = with_curves(known, known.recorded.curves[0], fast)
    scheduler = ScriptedScheduler([(job(faster, 0), 1), (job(faster, 1), 3), (job(faster, 2), 1)])
    expected = [(1, 1, 0.75), (1, 2, 1.5), (0, 1, 2.0), (1, 3, 2.25), (2, 1, 4.0)]
    assert simulated_epochs(faster, scheduler, 2) == expected


def test_a_trial_that_continues_costs_only_its_further_epochs(known):
    scheduler = ScriptedScheduler([(job(known, 0), 2), (job(known, 1), 1), (job(known, 0), 2)])
    found = simulated_epochs(known, scheduler, 1)
    assert [(trial, epoch) for trial, epoch, _ in found] == [(0, 1), (0, 2), (1, 1), (0, 3), (0, 4)]


def test_an_idle_worker_waits_for_the_next_epoch_end(known):
    scheduler = ScriptedScheduler([(job(known, 0), 2), None, (job(known, 1), 1)])
    assert simulated_epochs(known, scheduler, 2) == [(0, 1, 2.0), (0, 2, 4.0), (1, 1, 4.0)]


def test_a_study_ends_when_its_epochs_are_used_up(known):
    scheduler = ScriptedScheduler([(job(known, trial), EPOCHS) for trial in range(10)])
    assert len(simulated_epochs(known, scheduler, 3, most=7)) == 7


def test_a_trial_ends_after_its_last_epoch_whatever_the_scheduler_says(known):
    scheduler = ScriptedScheduler([(job(known, 0), 10 * EPOCHS)])
    assert len(simulated_epochs(known, scheduler, 1)) == EPOCHS


def test_the_scheduler_learns_the_best_of_a_trial_so_far(known):
    values = (0.5, 0.7, 0.6, *(0.6,) * (EPOCHS - 3))
    uneven = with_curves(known, Curve(values=values, total_seconds=18))
    scheduler = ScriptedScheduler([(job(uneven, 0), 3)])
    found = list(PeerSimulation(uneven, scheduler, workers=1, max_epochs=9).run())
    assert scheduler.reports == [(0, 1, -0.5), (0, 2, -0.7), (0, 3, -0.7)]
    assert [best.value for best in found] == [0.5, 0.7, 0.7]


@pytest.mark.parametrize("workers", [1, 3])
def test_random_search_gives_the_records_of_the_simulation_of_hpo(known, workers):
    strategy = strategies.choose_strategies(known.recorded, None, None)[0]
    own = Simulation(known, strategy, seed=4, workers=workers, max_epochs=100)
    expected = list(own.run())
    settings = [dict(trial.params) for trial in own.stored_trials()]
    jobs = [(Job(trial=number, setting=each), EPOCHS) for number, each in enumerate(settings)]
    found = PeerSimulation(known, ScriptedScheduler(jobs), workers=workers, max_epochs=100)
    assert list(found.run()) == expected
