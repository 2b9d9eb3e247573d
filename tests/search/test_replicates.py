"""Replicates: a setting runs with several seeds and counts once, with their mean."""

import os
import random
import signal
import statistics

import optuna
import pytest
from optuna.trial import TrialState

from hpo.analysis import documents, finish, importance, results
from hpo.artifacts.folders import Artifacts
from hpo.cli import console
from hpo.errors import DefinitionError
from hpo.search import replicates
from hpo.store import lease, process, queue, status, studies, warm_start
from hpo.store.history import History
from hpo.study.definition import Definition
from hpo.study.file import load_study_file
from hpo.study.search_options import Pruner, Sampler
from hpo.training.metric import METRICS
from hpo.workers import retention
from hpo.workers.setting import choose_setting
from hpo.workers.trial_end import complete_trial
from tests.support import lease_worker
from tests.support.lease_worker import NAME
from tests.support.processes import wait_for

OWN = """
import random
import time


def noisy(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        time.sleep(0.15)
        state["epoch"] += 1
        luck = random.Random(f"{config.kind}/{config.seed}").random() / 10
        yield len(config.kind) / 10 + state["epoch"] / 1000 + luck, state
"""

STUDY = """
[train]
objective = "own:noisy"
epochs = 3
seed = 7

[search]
sampler = "grid"
replicates = 3
"""

POINTS = """
[[points]]
kind = "aa"
site = "L"
[[points]]
kind = "a"
[[points]]
kind = "aaa"
"""


def study_of(replicates: int, trials: int, *points: dict, **search) -> Definition:
    definition = lease_worker.definition(trials, *points)
    usual = {"replicates": replicates, "sampler": Sampler(name="random")}
    return definition.model_copy(update={"search": definition.search.model_copy(update=usual | search)})


class Worker:
    """A worker that ends a trial with a given accuracy."""

    def __init__(self, url: str, definition: Definition) -> None:
        self.storage = studies.open_storage(url, create=True)
        studies.create_study(self.storage, definition, "text")
        self.study_id = studies.find_study_id(self.storage, NAME)
        self.folder = studies.artifacts_folder(self.storage, NAME)
        self.history = History(self.storage, self.study_id, NAME, METRICS["accuracy"])
        self.definition = definition

    def begin(self) -> tuple[lease.Claim, object] | None:
        owner = process.current_owner("cpu")
        claim = queue.claim_trial(self.storage, self.study_id, owner, lease_seconds=60, max_attempts=1)
        return claim and (claim, choose_setting(claim, self.history, self.definition)[1])

    def end(self, claim: lease.Claim, accuracy: float) -> None:
        claim.commit(report=(1, accuracy))
        complete_trial(claim, self.history, self.definition, accuracy)

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        return status.read_trials(self.storage, NAME)


def test_settings_are_ranked_by_their_means_and_those_with_one_run_come_last():
    accuracies = {0: 0.90, 1: 0.80, 2: 0.99, 3: 0.70, 4: 0.86, 5: 0.90}
    found = replicates.rank_settings(METRICS["accuracy"], accuracies, {3: 0, 4: 1})
    assert [each.trials for each in found] == [(4, 1), (0, 3), (2,), (5,)]
    assert [round(each.mean, 2) for each in found] == [0.83, 0.8, 0.99, 0.9]
    assert [each.trials[0] for each in replicates.rank_settings(METRICS["accuracy"], accuracies, {})] == [
        2,
        0,
        5,
        4,
        1,
        3,
    ]


def test_a_setting_with_a_diverged_seed_comes_last():
    accuracies = {0: 0.95, 1: 0.9, 2: 0.8, 3: 0.94, 4: 0.9}
    found = replicates.rank_settings(METRICS["accuracy"], accuracies, {3: 0, 4: 1, 5: 0}, pruned=[5, 6])
    assert [(each.trials, each.diverged) for each in found] == [((1, 4), 0), ((2,), 0), ((0, 3), 1)]


def test_noise_is_the_deviation_between_seeds_whatever_the_settings_reach():
    chance = random.Random(0)
    accuracies, repeats = {}, {}
    for first in range(0, 900, 3):
        level = chance.random()
        for number in range(first, first + 3):
            accuracies[number] = level + chance.gauss(0, 0.02)
            repeats |= {number: first} if number > first else {}
    found = replicates.estimate_noise(replicates.rank_settings(METRICS["accuracy"], accuracies, repeats))
    assert found.deviation == pytest.approx(0.02, rel=0.1)
    assert (found.settings, found.freedom) == (300, 600)
    assert replicates.estimate_noise(replicates.rank_settings(METRICS["accuracy"], accuracies, {})) is None


def test_each_complete_setting_runs_with_all_seeds_before_a_new_setting_starts(url):
    definition = study_of(3, 2, {"lr": 0.5})
    worker, order = Worker(url, definition), []
    while (started := worker.begin()) is not None:
        claim, config = started
        order.append((config.lr, config.seed))
        worker.end(claim, 0.5)
    assert [seed for _, seed in order] == [0, 1, 2] * 3
    assert [len({lr for lr, _ in order[first : first + 3]}) for first in (0, 3, 6)] == [1, 1, 1]
    assert order[0][0] == 0.5, "the listed setting"
    trials = worker.trials()
    assert [trial.number for trial in trials] == list(range(9))
    assert [trial.user_attrs.get("repeats") for trial in trials] == [*[None] * 3, 0, 0, 1, 1, 2, 2]
    assert [trial.user_attrs.get("point") for trial in trials] == [1, None, None, 1, 1, *[None] * 4]
    now = status.read_status(worker.storage, NAME)
    assert (now.state, now.budget, now.trials["complete"]) == ("complete", 9, 9)
    studies.create_study(worker.storage, study_of(3, 3, {"lr": 0.5}), "text")
    assert len(worker.trials()) == 10, "extended by one trial, and by no replicate"


def test_pruned_and_failed_trials_are_not_replicated(url):
    worker = Worker(url, study_of(3, 3))
    for state in (TrialState.PRUNED, TrialState.FAIL):
        worker.begin()[0].end(state, value=0.5 if state == TrialState.PRUNED else None)
    assert len(worker.trials()) == 3


def test_an_end_whose_acknowledgement_is_lost_replicates_a_setting_once(url):
    worker = Worker(url, study_of(2, 1))
    claim, _ = worker.begin()
    worker.end(claim, 0.5)
    complete_trial(claim, worker.history, worker.definition, 0.5)
    assert len(worker.trials()) == 2


def test_a_study_that_prunes_replicates_the_better_half_and_all_points(url):
    worker = Worker(url, study_of(2, 5, {"lr": 0.5}, pruner=Pruner(name="asha")))
    accuracies = iter([0.1, 0.5, 0.3, 0.6, 0.2, 0.5])  # of the first trials; the point's is the first
    replicated = []
    while (started := worker.begin()) is not None:
        first = worker.history.own_trial.system_attrs.get(replicates.REPLICATE_OF)
        replicated += [] if first is None else [first]
        worker.end(started[0], 0.0 if first is not None else next(accuracies))
    # 0.5 is the first of two, 0.3 the second of three, 0.6 the first of four; the others rank too low.
    assert replicated == [0, 1, 2, 3, 5]
    assert not any(trial.user_attrs.get("repeats") == 4 for trial in worker.trials())


def test_a_sampler_sees_a_setting_once_with_its_mean(url):
    worker = Worker(url, study_of(3, 3, sampler=Sampler(name="tpe")))
    for accuracy in (0.5, 0.6, 0.1):
        worker.end(worker.begin()[0], accuracy)
    worker.end(worker.begin()[0], 0.8)
    worker.begin()
    seen = worker.history.get_all_trials(worker.study_id)
    assert [(trial.number, trial.state) for trial in seen] == [
        (0, TrialState.COMPLETE),
        (1, TrialState.COMPLETE),
    ]
    assert [trial.value for trial in seen] == pytest.approx([statistics.fmean([0.5, 0.6, 0.1]), 0.8])
    assert [trial.value for trial in worker.trials()[:2]] == [0.5, 0.8], "the stored values do not change"
    with_others = Worker(url, study_of(3, 3, sampler=Sampler(name="tpe"))).history
    with_others.begin_trial(worker.history.own_trial._trial_id)
    assert len(with_others.trials()) == 5, "including the running replicate"


def test_a_setting_with_a_diverged_seed_ranks_below_complete_ones(url):
    worker = Worker(url, study_of(2, 2, sampler=Sampler(name="tpe")))
    for accuracy in (0.9, None, 0.5, 0.7):
        claim, _ = worker.begin()
        claim.commit(user_attributes={"best_epoch": 1})
        if accuracy is None:
            claim.end(TrialState.PRUNED)
        else:
            worker.end(claim, accuracy)
    first, second = results.read_best(worker.storage, NAME)
    assert (first.trial.number, first.runs[0].number, first.value) == (1, 3, pytest.approx(0.6))
    assert documents.best_setting_record(second).document()["replicates"]["diverged"] == 1
    assert "one complete run; 1 more diverged" in console.best_trial_text(second, {})
    assert [each.trial for each in finish.plan_finish(worker.storage, NAME, 2, 2).settings] == [1, 0]
    with worker.storage.transaction() as session:
        worker.history.read_between_trials(session)
    seen = worker.history.get_all_trials(worker.study_id)
    assert [(trial.state, trial.value) for trial in seen] == [
        (TrialState.PRUNED, 0.9),
        (TrialState.COMPLETE, pytest.approx(0.6)),
    ]
    assert [trial.number for trial in importance.complete_settings(worker.trials())] == [1]


def test_importance_counts_each_setting_once():
    def complete(number: int, x: float, value: float, **system: int) -> optuna.trial.FrozenTrial:
        distributions = {"x": optuna.distributions.FloatDistribution(0, 1)}
        attributes = {f"hpo:{name}": each for name, each in system.items()}
        trial = optuna.trial.create_trial(
            value=value, params={"x": x}, distributions=distributions, system_attrs=attributes
        )
        trial.number = number
        return trial

    trials = [complete(0, 0.1, 0.5), complete(1, 0.2, 0.8), complete(2, 0.2, 0.6, repeats=1)]
    assert [(t.number, t.value) for t in importance.complete_settings(trials)] == [
        (0, 0.5),
        (1, pytest.approx(0.7)),
    ]


def test_a_warm_started_study_learns_from_the_mean(url):
    worker = Worker(url, study_of(2, 1))
    for accuracy in (0.5, 0.7):
        worker.end(worker.begin()[0], accuracy)
    definition = study_of(1, 1, start_from=(NAME,), sampler=Sampler(name="tpe"))
    (found,) = warm_start.find_warm_starts(worker.storage, definition.model_copy(update={"name": "later"}))
    assert [trial.value for trial in found.trials] == [pytest.approx(0.6)]


def test_best_trials_finish_and_retention_rank_settings_by_their_means(url, tmp_path):
    worker = Worker(url, study_of(2, 3))
    for accuracies in ((0.9, 0.5), (0.8, 0.7), (0.6, 0.85)):
        for accuracy in accuracies:
            claim, _ = worker.begin()
            weights = f"{worker.folder}/{claim.number:04d}/weights-0001-001.pt"
            claim.commit(user_attributes={"weights": weights, "best_epoch": 1})
            (tmp_path / weights).parent.mkdir(parents=True)
            (tmp_path / weights).touch()
            worker.end(claim, accuracy)
    found = results.read_best(worker.storage, NAME)
    # Trials 0, 1 and 2 are the first ones of their settings; 3, 4 and 5 are their replicates, in order.
    assert [(each.trial.number, each.runs[0].number) for each in found] == [(1, 1), (2, 5), (0, 0)]
    shown = documents.best_setting_record(found[1]).document()
    assert (shown["trial"], shown["value"], shown["accuracy"]) == (2, *[pytest.approx(0.725)] * 2)
    assert (shown["seeds"], shown["weights"]) == (2, f"{worker.folder}/0005/weights-0001-001.pt")
    document = documents.best_setting_record(found[0]).document()["replicates"]
    assert (document["trials"], document["accuracies"]) == ([1, 4], [0.8, 0.7])
    assert document["mean"] == pytest.approx(0.75)
    assert document["noise"] == pytest.approx(((0.4**2 + 0.1**2 + 0.25**2) / 2 / 3) ** 0.5)
    settings = finish.plan_finish(worker.storage, NAME, 2, 2).settings
    assert [(each.trial, round(each.value, 3)) for each in settings] == [(1, 0.75), (2, 0.725)]
    retention.prune_weights(
        worker.storage, worker.study_id, Artifacts(str(tmp_path)), worker.folder, 2, worker.definition
    )
    assert sorted(path.parent.name for path in tmp_path.rglob("weights-*")) == ["0001", "0005"]


def test_weights_are_kept_until_all_replicates_of_their_setting_have_ended(url, tmp_path):
    worker = Worker(url, study_of(2, 2))
    for accuracy in (0.9, 0.8, 0.3):
        claim, _ = worker.begin()
        claim.commit(user_attributes={"weights": f"{worker.folder}/{claim.number:04d}/weights-0001-001.pt"})
        worker.end(claim, accuracy)
    # Trial 0 has 0.85 with its replicate. Trial 1 has 0.3, and its replicate may reach any accuracy.
    retention.prune_weights(
        worker.storage, worker.study_id, Artifacts(str(tmp_path)), worker.folder, 1, worker.definition
    )
    there = worker.storage.get_all_trials(worker.study_id)
    kept = [trial.number for trial in there if trial.user_attrs.get("weights")]
    assert kept == [0, 1]


@pytest.mark.parametrize(
    ("table", "where"),
    [
        ('[space]\nkind = ["a", "b"]\nseed = [1, 2]', "space.seed"),
        ('[space]\nkind = ["a"]\n[[points]]\nkind = "a"\nseed = 3', "points[1].seed"),
    ],
)
def test_seeds_in_the_space_or_a_point_are_refused_in_a_study_with_replicates(tmp_path, table, where):
    file = tmp_path / "s.toml"
    file.write_text(STUDY.replace('sampler = "grid"', "trials = 1").replace("seed = 7\n", "") + table)
    with pytest.raises(DefinitionError) as caught:
        load_study_file(file)
    assert f"{where}: search.replicates gives each setting its seeds" in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_workers_replicate_points_despite_a_kill_and_report_the_noise(place, url):
    file = place.study(STUDY + POINTS)
    place.here("create", file, HPO_STORE=url)
    run = place.start("run", file, "--devices", "cpu:2", HPO_STORE=url)
    workers = wait_for(lambda: place.here("status", "small", "--json", HPO_STORE=url).json()["workers"])
    os.kill(int(workers[0]["owner"].rpartition("/")[2]), signal.SIGKILL)
    _, err = run.communicate(timeout=240)
    assert run.returncode == 0, err
    trials = optuna.load_study(study_name="small", storage=url).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 9
    ran = {(trial.params["kind"], trial.system_attrs["hpo:run"].get("seed", 7)) for trial in trials}
    assert ran == {(kind, seed) for kind in ("a", "aa", "aaa") for seed in (7, 8, 9)}
    assert [trial.user_attrs.get("site") for trial in trials].count("L") == 3
    best = place.here("best", "small", "--json", HPO_STORE=url).json()
    assert best["params"] == {"kind": "aaa"}
    assert len(best["replicates"]["trials"]) == 3
    output = place.here("best", "small", HPO_STORE=url).out
    assert f"accuracy   {best['replicates']['mean']:.4f}, mean of 3 seeds" in output
    assert "seeds of one setting differ by 0.0" in output
    assert "of 9 trials of 3 settings)" in output
    page = place.path / "r.html"
    place.here("report", "small", "-o", str(page), HPO_STORE=url)
    text = page.read_text()
    assert "may come from their seeds alone" in text
    assert "Over 3 seeds, its setting reaches" in text
