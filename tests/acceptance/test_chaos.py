"""Random faults while the real ``hpo launch`` runs fourteen points with four workers.

The study's objective is cheap but keeps a state, as training does: its weights after an epoch are a hash of
those before. So the weights' files show whether every epoch ran once, in order, from the right state.

``make soak`` runs the same for any time, with a new seed for each round, and with databases that are
unavailable for half a minute.
"""

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from tests.support.launched_study import (
    KILLS,
    MOMENTS,
    POINTS,
    STUDY,
    LaunchedStudy,
    hashes_without_faults,
    prepare_workplace,
)

FRONT_STUDY = """
[train]
dataset = "digits"
image_size = 32
limit = 200
weights = "none"
epochs = 6

[space]
model = ["shufflenet_v2_x0_5", "squeezenet1_1", "resnet18"]
lr = { low = 1e-4, high = 1e-1, log = true }

[search]
trials = 40
objectives = ["accuracy", "parameters"]
pruner = { name = "asha", min_epochs = 1, reduction_factor = 3 }
max_attempts = 1000
"""


@pytest.fixture(scope="module")
def hashes(once: Callable[[str, Callable[[Path], None]], Path]) -> list[str]:
    def fill(path: Path) -> None:
        (path / "hashes.json").write_text(json.dumps(hashes_without_faults(path)))

    return json.loads((once("without-faults", fill) / "hashes.json").read_text())


@pytest.mark.parametrize(
    "url", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
def test_fourteen_points_survive_ten_kills_or_more_with_the_same_bits(url, tmp_path, hashes):
    with LaunchedStudy(tmp_path, url, seed=1) as launched:
        while launched.launcher.poll() is None and (
            sum(launched.kills.values()) < KILLS or launched.kills.keys() != MOMENTS
        ):
            launched.kill()
        assert launched.launcher.wait(120) == 0, launched.stderr_text()
    launched.check(hashes)
    assert sum(launched.kills.values()) >= KILLS
    assert launched.kills.keys() == MOMENTS
    assert "continues after epoch" in launched.stderr_text()


@pytest.mark.slow
@pytest.mark.parametrize("url", ["postgresql", "sqlite"], indirect=True)
def test_forty_trials_with_two_objectives_survive_ten_kills_and_have_optunas_front(url, tmp_path):
    with LaunchedStudy(tmp_path, url, seed=2, study=FRONT_STUDY) as launched:
        while sum(launched.kills.values()) < 10 and launched.launcher.poll() is None:
            launched.kill()
        assert launched.launcher.wait(900) == 0, launched.stderr_text()
    assert sum(launched.kills.values()) == 10
    study = optuna.load_study(study_name="small", storage=url)
    assert [trial.number for trial in study.trials] == list(range(40))
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "PRUNED"}
    for trial in study.trials:
        epochs = len(trial.intermediate_values)
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
        assert epochs == (trial.user_attrs["epochs"] if trial.state.name == "PRUNED" else 6)
        if trial.state.name == "COMPLETE":
            best, parameters = max(trial.intermediate_values.values()), trial.user_attrs["parameters"]
            assert trial.values == [best, parameters]
    assert launched.sql("SELECT count(*) FROM hpo_leases WHERE owner IS NOT NULL") == [(0,)]
    front = launched.place.here("best", "small", "--json", HPO_STORE=url).json()
    # A setting that two trials ran, which NSGA-II may propose, is on hpo's front once.
    settings = {trial.number: tuple(sorted(trial.params.items())) for trial in study.trials}
    shown = [settings[each["trial"]] for each in front]
    assert len(shown) == len({*shown})
    assert {*shown} == {settings[trial.number] for trial in study.best_trials}


@pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)
def test_three_launchers_at_once_on_an_empty_store_create_one_study_and_share_it(url, tmp_path):
    place = prepare_workplace(tmp_path)
    file = place.study(STUDY)
    command = ("run", file, "--set", "train.seconds=0.0", "--devices", "cpu:1")
    launchers = [place.start(*command, HPO_STORE=url) for _ in range(3)]
    outputs = [launcher.communicate(timeout=180) for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0] * 3, outputs
    assert not any("Traceback" in err for _, err in outputs)
    (study,) = optuna.get_all_study_summaries(url)
    trials = optuna.load_study(study_name=study.study_name, storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * POINTS
    assert {trial.user_attrs["attempts"] for trial in trials} == {1}
