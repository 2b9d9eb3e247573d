"""What is wrong with a study, and whether it needs a person."""

from dataclasses import replace

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from hpo.analysis import disk_left, health
from hpo.artifacts.folders import Artifacts
from hpo.errors import format_bytes
from hpo.store.failures import find_early_ends
from hpo.store.lease_info import LeaseInfo
from hpo.store.status import Snapshot, Status
from hpo.store.vitals import Vitals
from hpo.store.waiting_workers import WaitingWorker
from tests.support import lease_worker

LEASE = LeaseInfo(
    trial=3,
    owner="gpu1/12",
    host="gpu1",
    device="cuda:0",
    attempt=1,
    epoch=2,
    expires_in_seconds=50.0,
    silent_seconds=10.0,
    lease_seconds=60.0,
    report_seconds=30.0,
    ahead_seconds=0.0,
)
COUNTS = {"waiting": 2, "running": 1, "complete": 1, "pruned": 0, "failed": 0}


def trial(number: int, state: TrialState, **attributes: object) -> FrozenTrial:
    found = optuna.trial.create_trial(
        state=state, value=0.5 if state == TrialState.COMPLETE else None, user_attrs=attributes
    )
    found.number = number
    return found


def study(*trials: FrozenTrial, folder: str | None = None, **changes: object) -> Snapshot:
    """Return a study that runs and has nothing wrong, with changes of its status."""
    now = Status(
        study="mine",
        state="running",
        trials=COUNTS,
        budget=4,
        budgets=(),
        early_ends=find_early_ends(trials),
        workers=(LEASE,),
        selection="valid",
        waits=(),
        seconds_left=None,
        how_to_start="'hpo launch mine' starts some",
    )
    definition = lease_worker.definition(len(trials))
    return Snapshot(
        status=replace(now, **changes), definition=definition, trials=list(trials), folder=folder
    )


def problems(*trials: FrozenTrial, **changes: object) -> list[tuple[str, bool, str]]:
    found = health.find_problems(study(*trials, **changes))
    return [(each.kind, each.needs_person, str(each)) for each in found]


def test_nothing_is_wrong_with_a_study_that_runs():
    assert problems(trial(0, TrialState.COMPLETE), trial(1, TrialState.PRUNED, pruned="by median")) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "1 planned trial would have repeated one and is left out"),
        (2, "2 planned trials would have repeated one and are left out"),
    ],
)
def test_a_note_counts_the_trials_that_are_left_out(count, text):
    (note,) = study(left_out_trials=count).status.notes
    assert note == f"every setting of [space] has a trial; {text}"


def test_failed_trials_come_with_their_commonest_reason_and_how_to_retry_them(tmp_path):
    failed = trial(0, TrialState.FAIL, failure={"class": "KeyError", "message": "'lr'"})
    read = study(failed, trial(1, TrialState.COMPLETE), folder="mine-00000000")
    (found,) = health.find_problems(read, Artifacts(str(tmp_path)))
    assert found.text == "1 of 2 trials failed: KeyError: 'lr'"
    assert "'hpo retry mine --failed'" in found.advice
    assert f"traceback: {tmp_path}/mine-00000000/0000/traceback.txt" in found.advice
    assert not found.needs_person


@pytest.mark.parametrize(("complete", "needs_person"), [(0, True), (1, False)])
def test_a_complete_study_needs_a_person_if_no_trial_succeeded(complete, needs_person):
    failed = trial(0, TrialState.FAIL, failure={"class": "lost", "message": "five attempts died"})
    ((kind, *found),) = problems(
        failed, state="complete", trials=COUNTS | {"complete": complete}, workers=()
    )
    assert kind == "failed"
    assert found[0] == needs_person
    assert "'hpo trials mine' says why each did" in found[1]


def test_trials_that_wait_without_a_worker_need_a_person():
    idle = {"state": "idle", "workers": (), "trials": COUNTS | {"running": 0}}
    assert problems(**idle) == [
        ("no_workers", True, "2 trials wait, and no worker has run; 'hpo launch mine' starts some")
    ]
    ((_, _, text),) = problems(**idle, vitals=Vitals(idle_seconds=600.0))
    assert "no worker has run for 10 min" in text
    waiting = WaitingWorker(owner="gpu1/9", host="gpu1", device="cpu", silent_seconds=1.0)
    assert problems(**idle, waiting_workers=(waiting,)) == []
    assert problems(**idle, vitals=Vitals(idle_seconds=5.0)) == [], "a worker may be about to be restarted"
    assert problems(**idle, vitals=Vitals(changed_seconds=5.0)) == [], "somebody may be about to start one"


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_a_study_that_is_paused_or_stopped_needs_nobody(state):
    dead = replace(LEASE, expires_in_seconds=0.0, silent_seconds=9000.0)
    assert problems(state=state, workers=(dead,)) == []


@pytest.mark.parametrize(
    ("epochs", "late", "in_time"),
    [([400.0, 300.0], 2001.0, 1999.0), ([0.5], 601.0, 599.0), ([], 7201.0, 7199.0)],
    ids=["five times the longest epoch", "at least ten minutes", "no epoch yet"],
)
def test_a_trial_that_reports_nothing_for_long_needs_a_person(epochs, late, in_time):
    others = [trial(0, TrialState.COMPLETE, epoch_seconds=epochs)]
    assert problems(*others, workers=(replace(LEASE, report_seconds=in_time),)) == []
    ((kind, needs_person, text),) = problems(*others, workers=(replace(LEASE, report_seconds=late),))
    assert (kind, needs_person) == ("stalled", True)
    assert text.startswith("trial 3, on gpu1 (cuda:0): no epoch was reported for ")
    assert "gpu1/12" in text


def test_a_silent_worker_is_named_with_how_long_its_trial_is_kept():
    silent = replace(LEASE, silent_seconds=45.0, expires_in_seconds=15.0, report_seconds=9000.0)
    ((kind, needs_person, text),) = problems(workers=(silent,))
    assert (kind, needs_person) == ("silent", False)
    assert "worker gpu1/12 has been silent for 45 s; another one may take the trial over in 15 s" in text
    for_hours = replace(silent, silent_seconds=6e4, lease_seconds=1e5, expires_in_seconds=4e4)
    assert [(kind, urgent) for kind, urgent, _ in problems(workers=(for_hours,))] == [
        ("silent", True),
        ("clock", False),
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lease_seconds": 7200.0}, "its lease lasts 2.0 h"),
        ({"lease_seconds": 1e308}, "its lease lasts years"),
        ({"ahead_seconds": 3600.0}, "renewed 60 min in the future; the database's clock was set back"),
    ],
)
def test_leases_that_end_far_in_the_future_are_told(changes, text):
    ((kind, needs_person, said),) = problems(workers=(replace(LEASE, **changes),))
    assert (kind, needs_person) == ("clock", False)
    assert text in said


def test_a_host_whose_clock_differs_is_told():
    vitals = Vitals(idle_seconds=0.0, clock_offsets={"gpu1": 3.0, "gpu2": -120.0, "gpu3": 30.0})
    assert [text.partition(";")[0] for _, _, text in problems(vitals=vitals)] == [
        "the clock of gpu2 is 2 min behind the database's",
        "the clock of gpu3 is 30 s ahead of the database's",
    ]


def with_files(folder, *states: TrialState) -> Snapshot:
    """Return a study with a trial in each state, of which the first has weights of a megabyte."""
    name = "mine-00000000/0000/weights-0001-001.safetensors"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(bytes(10**6))
    first = trial(0, states[0], weights=name)
    return study(first, *(trial(n, state) for n, state in enumerate(states[1:], 1)))


def test_the_sizes_of_files_tell_what_a_study_may_still_take(tmp_path):
    done, runs, waits = TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING
    read = with_files(tmp_path, done, runs, waits, waits)
    found = disk_left.space_to_come(read.definition, read.trials, Artifacts(str(tmp_path)))
    assert found == disk_left.SpaceToCome(soon=10**6, in_all=4 * 10**6)
    search = read.definition.search.model_copy(update={"keep_weights": 1})
    limited = read.definition.model_copy(update={"search": search})
    found = disk_left.space_to_come(limited, read.trials, Artifacts(str(tmp_path)))
    assert found == disk_left.SpaceToCome(soon=10**6, in_all=10**6)


def test_nothing_is_told_of_space_before_a_file_is_there(tmp_path):
    read = study(trial(0, TrialState.RUNNING), trial(1, TrialState.WAITING))
    assert disk_left.space_to_come(read.definition, read.trials, Artifacts(str(tmp_path))) is None


def test_a_disk_with_less_space_than_the_study_needs_is_told(tmp_path):
    artifacts = Artifacts(str(tmp_path))
    free = disk_left.free_bytes(artifacts)
    read = with_files(tmp_path, TrialState.COMPLETE, TrialState.RUNNING, *[TrialState.WAITING] * 9)
    assert health.find_problems(read, artifacts) == ()
    file = tmp_path / "mine-00000000/0000/weights-0001-001.safetensors"
    with file.open("r+b") as opened:
        opened.truncate(free // 3)  # sparse: it takes no space
    (found,) = health.find_problems(read, artifacts)
    assert (found.kind, found.needs_person) == ("disk", False)
    assert format_bytes(5 * (free // 3)) in found.text
    with file.open("r+b") as opened:
        opened.truncate(2 * free)
    assert [each.needs_person for each in health.find_problems(read, artifacts)] == [True]
