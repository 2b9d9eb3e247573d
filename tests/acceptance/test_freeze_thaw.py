"""Studies whose trials a model of the curves pauses and continues, with real workers and databases."""

import os
import signal

import optuna
import pytest
import sqlalchemy as sa

from hpo.search import asha
from hpo.search.asha import PAUSED_AT_RUNG, PROMOTED_PAST_RUNG, RUNG_DECISIONS
from hpo.search.curve_forecast import CurveForecaster
from hpo.search.replicates import REPLICATE_OF
from hpo.store import database, rows, studies
from hpo.store.history import History
from hpo.store.process import current_owner
from hpo.workers.pruning import TrialPruner
from hpo.workers.setting import choose_setting
from hpo.workers.worker import claim_next
from tests.support.log_lines import messages
from tests.support.processes import descendants, wait_for

OWN = """
import os, time


def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        with open("epochs", "a") as file:
            file.write(f"{config.x} {config.kind} {state['epoch']}\\n")
        height = 0.9 - (config.x - 0.3) ** 2 - (0.1 if config.kind == "b" else 0.0)
        yield height * (1 - 0.5 / state["epoch"]), state
"""

BROKEN = """
    if config.kind == "b" and os.path.exists("broken"):
        raise RuntimeError("not today")
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 9
seconds = 0.0

[space]
x = { low = 0.0, high = 1.0 }
kind = ["a", "b"]

[search]
trials = 18
sampler = "freeze_thaw"
pruner = { name = "freeze_thaw", min_epochs = 1 }
"""


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Let commits of this process not wait for the disk."""
    statement = "PRAGMA synchronous = OFF"
    monkeypatch.setattr(database, "sync_every_commit", lambda each, _: each.execute(statement))


def trials(url: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="small", storage=url).trials


def with_search(**options: object) -> str:
    return STUDY + "".join(f"{name} = {value}\n" for name, value in options.items())


def epochs_run(place) -> list[str]:
    return (place.path / "epochs").read_text().splitlines()


def check_ended(url: str, count: int) -> None:
    """Check that every trial ended once and for a reason, and that the best one is a whole training."""
    found = trials(url)
    assert len(found) == count
    for each in found:
        assert sorted(each.intermediate_values) == list(range(1, each.last_step + 1))
        assert each.user_attrs["checkpoint"] is None
        if each.state.name == "PRUNED":
            assert each.user_attrs["pruned"] == "by freeze_thaw: its chance to become the best is below 5 %"
    best = max(found, key=lambda each: max(each.intermediate_values.values()))
    assert (best.state.name, best.last_step) == ("COMPLETE", 9)


@pytest.mark.parametrize(
    "url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
def test_kills_and_a_pause_of_the_study_lose_no_trial(place, url, sql):
    text = STUDY.replace("seconds = 0.0", "seconds = 0.05")
    place.here("create", place.study(text), HPO_STORE=url)
    launched = place.start("launch", "small", "--devices", "cpu:2", HPO_STORE=url)

    def wait_for_mark(name: str) -> None:
        marks = "SELECT count(*) FROM trial_system_attributes WHERE key = :key AND value_json <> 'null'"
        wait_for(lambda: sql(marks, key=name)[0][0])

    def wait_for_running(*, any_trial: bool) -> None:
        running = "SELECT count(*) FROM trials WHERE state = 'RUNNING'"
        wait_for(lambda: bool(sql(running)[0][0]) == any_trial)

    def kill_worker() -> None:
        os.kill(descendants(launched.pid)[0], signal.SIGKILL)

    wait_for_mark(PAUSED_AT_RUNG)
    kill_worker()
    wait_for_mark(PROMOTED_PAST_RUNG)
    place.here("pause", "small", HPO_STORE=url)
    wait_for_running(any_trial=False)
    kill_worker()
    place.here("resume", "small", HPO_STORE=url)
    wait_for_running(any_trial=True)
    kill_worker()
    _, err = launched.communicate(timeout=240)
    assert launched.returncode == 0, err
    assert "paused (after epoch 1: 15 settings are to begin first)" in err
    check_ended(url, 18)
    for each in trials(url):
        made = [decision["rung"] for decision in each.system_attrs[RUNG_DECISIONS]]
        assert made == [rung for rung in (1, 2, 3, 5, 8) if rung <= each.last_step]


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_a_budget_holds_and_more_trials_continue_the_study(place, url):
    file = place.study(with_search(epochs=20))
    place.here("create", file, HPO_STORE=url)
    assert "search.epochs is used up" in place.here("worker", "small", HPO_STORE=url).err
    assert len(epochs_run(place)) == 20
    assert {each.state.name for each in trials(url)} == {"WAITING"}
    place.here("create", file, "--set", "search.epochs=200", HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    check_ended(url, 18)
    place.here("create", file, "--set", "search.epochs=200", "--set", "search.trials=21", HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    check_ended(url, 21)
    lines = epochs_run(place)
    assert len(set(lines)) == len(lines), "no epoch of a setting ran twice"


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_failed_trials_are_retried_and_a_stopped_study_continues(place, url):
    (place.path / "own.py").write_text(OWN.replace("    while", BROKEN + "    while"))
    (place.path / "broken").touch()
    file = place.study(with_search(max_attempts=1))
    place.here("create", file, HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    failed = [each.number for each in trials(url) if each.state.name == "FAIL"]
    assert failed
    (place.path / "broken").unlink()
    place.here("retry", "small", "--failed", HPO_STORE=url)
    place.here("stop", "small", HPO_STORE=url)
    before = epochs_run(place)
    place.here("worker", "small", HPO_STORE=url)
    assert epochs_run(place) == before
    assert [each.number for each in trials(url) if each.state.name == "WAITING"] == failed
    place.here("resume", "small", HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    check_ended(url, 18)
    assert len(set(epochs_run(place))) == len(epochs_run(place)), "no epoch of a setting ran twice"


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_a_trial_whose_worker_died_between_report_and_pause_pauses_at_once(place, url):
    place.here("create", place.study(with_search(epochs=5)), HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    assert [each.system_attrs[PAUSED_AT_RUNG] for each in trials(url)[:5]] == [1] * 5
    storage = studies.open_storage(url, create=False)
    with storage.transaction() as session:
        rows.write_attributes(session, trials(url)[0]._trial_id, {PAUSED_AT_RUNG: None}, system=True)
    place.here("create", "small.toml", "--set", "search.epochs=6", HPO_STORE=url)
    said = "\n".join(messages(place.here("worker", "small", HPO_STORE=url).err))
    assert "attempt 2, continues after epoch 1\nhpo: trial 0 paused (after epoch 1: 15 settings" in said
    assert [each.system_attrs.get(PAUSED_AT_RUNG) for each in trials(url)[:7]] == [*[1] * 6, None]
    assert len(epochs_run(place)) == 6


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_replicates_never_pause_but_queued_settings_where_points_are_pruned(place, url):
    text = with_search(replicates=2, prune_points="true")
    place.here("create", place.study(text), HPO_STORE=url)
    place.here("enqueue", "small", "x=0.9", "kind=b", HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    found = trials(url)
    replicates = [each for each in found if REPLICATE_OF in each.system_attrs]
    assert replicates
    assert {(each.state.name, each.last_step) for each in replicates} == {("COMPLETE", 9)}
    assert not any(PROMOTED_PAST_RUNG in each.system_attrs for each in replicates)
    (queued,) = [each for each in found if each.params == {"x": 0.9, "kind": "b"}]
    assert queued.state.name == "PRUNED"


# Transactions


class Watch:
    """Counts an engine's transactions, and says where a model is fitted."""

    def __init__(self, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transactions = self.open = 0
        self.fits: list[int] = []  # transactions that were open at each
        sa.event.listen(engine, "begin", lambda _: self.count(transactions=1, open=1))
        for end in ("commit", "rollback"):
            sa.event.listen(engine, end, lambda _: self.count(open=-1))
        fit = CurveForecaster.fit

        def watched(forecaster, begun, **options):
            self.fits.append(self.open)
            return fit(forecaster, begun, **options)

        monkeypatch.setattr(CurveForecaster, "fit", watched)

    def count(self, **steps: int) -> None:
        for name, step in steps.items():
            setattr(self, name, getattr(self, name) + step)


@pytest.mark.parametrize(("pruner", "reads"), [("asha", 0), ("freeze_thaw", 1)])
def test_the_model_is_fitted_outside_transactions_and_costs_one_read(
    place, url, monkeypatch, pruner, reads
):
    text = with_search(epochs=17).replace('name = "freeze_thaw"', f'name = "{pruner}"')
    place.here("create", place.study(text), HPO_STORE=url)
    place.here("worker", "small", HPO_STORE=url)
    place.here("create", "small.toml", "--set", "search.epochs=99", HPO_STORE=url)
    storage = studies.open_storage(url, create=False)
    definition = studies.read_definition(storage, "small")
    history = History(storage, studies.find_study_id(storage, "small"), "small", definition.metric)
    history.rungs = asha.rungs_of(definition)
    watch = Watch(storage.engine, monkeypatch)
    claim = claim_next(storage, history, current_owner("cpu"), 60, definition)
    assert watch.fits == [0] * reads
    assert watch.transactions == 2 + reads  # dead workers, the claim
    _, _, study = choose_setting(claim, history, definition)
    asked = TrialPruner(study, history, definition)
    epoch = next(each for each in history.rungs.epochs if each > (history.own_trial.last_step or 0))
    watch.fits, watch.transactions = [], 0
    asked.note_report(epoch, 0.5)
    asked.prepare()
    claim.commit(report=(epoch, 0.5), ask_pruner=asked.decide)
    assert watch.fits == [0] * reads
    assert watch.transactions == 1 + reads
