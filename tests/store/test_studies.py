"""Studies in the store: created, extended, deleted; how plain Optuna reads them."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution
from optuna.storages._rdb import models
from optuna.trial import TrialState

from hpo.analysis import importance
from hpo.errors import DefinitionError
from hpo.search import samplers
from hpo.store import lease, plan, studies
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition
from tests.support import lease_worker
from tests.support.lease_worker import NAME, claim_next
from tests.support.stored_study import check_refused, make_definition, plain

# Creating, extending


def test_a_study_is_stored_with_all_its_trials_as_plain_optuna_reads_it(url, storage):
    definition = make_definition(2, {"lr": 0.5, "epochs": 1}, {"optimizer": "adam"})
    assert studies.create_study(storage, definition, "name = 'study'") == studies.Stored.CREATED
    study = plain(url)
    assert study.metric_names == ["accuracy"]
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert storage.get_study_system_attrs(study._study_id)["hpo:file"] == "name = 'study'"
    assert study.user_attrs["folder"] == studies.artifacts_folder(storage, NAME)
    assert study.user_attrs["selection"] == "valid"
    assert [(t.number, t.state) for t in study.trials] == [(n, TrialState.WAITING) for n in range(4)]
    one, two, three, _ = study.trials
    assert one.user_attrs == {"point": 1}
    assert one.system_attrs["fixed_params"] == {"lr": 0.5}
    assert one.system_attrs[plan.RUN_OPTIONS] == {"epochs": 1}
    assert two.system_attrs["fixed_params"] == {"lr": definition.train["lr"], "optimizer": "adam"}
    assert three.user_attrs == {}
    assert "fixed_params" not in three.system_attrs
    assert studies.read_definition(storage, NAME) == definition
    assert studies.study_names(storage) == [NAME]


def test_creating_the_same_study_again_changes_nothing(url, storage, sql):
    definition = make_definition(2, {"lr": 0.5})
    assert studies.create_study(storage, definition, "text") == studies.Stored.CREATED
    before = sql("SELECT * FROM trials")
    assert studies.create_study(storage, definition, "text") == studies.Stored.KEPT
    assert sql("SELECT * FROM trials") == before


def test_a_study_is_extended_by_trials_and_points_with_the_next_numbers(url, storage):
    studies.create_study(storage, make_definition(1, {"lr": 0.5}), "text")
    studies.create_study(storage, make_definition(3, {"lr": 0.5}, {"lr": 0.25}), "more")
    trials = plain(url).trials
    assert [trial.user_attrs.get("point") for trial in trials] == [1, None, 2, None, None]
    assert [trial._trial_id for trial in trials] == sorted(trial._trial_id for trial in trials)
    assert storage.get_study_system_attrs(plain(url)._study_id)["hpo:file"] == "more"


def test_any_other_change_after_a_claim_is_refused_and_stores_nothing(url, storage, sql):
    studies.create_study(storage, make_definition(3), "text")
    claim_next(storage, studies.find_study_id(storage, NAME)).end(TrialState.COMPLETE, value=0.5)
    before = sql("SELECT * FROM study_system_attributes")
    other = make_definition(4).model_copy(update={"train": make_definition().train | {"epochs": 7}})
    with pytest.raises(DefinitionError, match=r"train.epochs: 3 -> 7"):
        studies.create_study(storage, other, "text")
    with pytest.raises(DefinitionError, match=r"search.trials: 3 -> 2"):
        studies.create_study(storage, make_definition(2), "text")
    assert sql("SELECT * FROM study_system_attributes") == before
    assert len(plain(url).trials) == 3


def test_a_creation_that_fails_halfway_stores_nothing(storage, sql):
    with pytest.raises(TypeError):
        studies.create_study(storage, make_definition(3), object())
    assert sql("SELECT * FROM studies") == sql("SELECT * FROM trials") == []
    studies.create_study(storage, make_definition(3), "text")


def test_a_thousand_trials_are_stored_in_one_transaction(url, storage):
    commits = []
    sa.event.listen(storage.engine, "commit", commits.append)
    studies.create_study(storage, make_definition(1000), "text")
    assert len(commits) == 1
    assert [trial.number for trial in plain(url).get_trials(deepcopy=False)] == list(range(1000))


def test_an_enqueued_setting_adds_a_trial_that_is_claimed_first(url, storage):
    studies.create_study(storage, make_definition(2), "text")
    point = make_definition(0, {"lr": 0.125}).points[0]
    assert studies.enqueue_setting(storage, NAME, point) == 2
    assert studies.enqueue_setting(storage, NAME, point) == 3
    trials = plain(url).trials
    assert [trial.user_attrs for trial in trials] == [{}, {}, {"enqueued": True}, {"enqueued": True}]
    assert trials[2].system_attrs["fixed_params"] == {"lr": 0.125}
    study_id = studies.find_study_id(storage, NAME)
    claim = claim_next(storage, study_id)
    assert claim.number == 2
    check_refused(lambda: studies.enqueue_setting(storage, "studdy", point), "did you mean 'study'?")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_trial_numbers_stay_distinct_while_plain_optuna_enqueues_and_hpo_extends(url, storage):
    studies.create_study(storage, make_definition(1), "text")
    theirs = plain(url)
    start = threading.Barrier(2)

    def enqueue():
        start.wait()
        for index in range(30):
            theirs.enqueue_trial({"lr": 0.001 * (index + 1)})

    thread = threading.Thread(target=enqueue)
    thread.start()
    start.wait()
    for count in range(2, 32):
        studies.create_study(storage, make_definition(count), "text")
    thread.join()
    assert sorted(trial.number for trial in plain(url).trials) == list(range(61))


@pytest.mark.parametrize("rounds", [2])
def test_six_processes_that_create_one_study_concurrently_store_it_once(url, sql, tmp_path, rounds):
    for number in range(rounds):
        if number:  # start again with an empty database
            if url.startswith("sqlite"):
                Path(url.removeprefix("sqlite:///")).unlink()
            else:
                sql("DROP SCHEMA public CASCADE")
                sql("CREATE SCHEMA public")
        orders = json.dumps({"url": url, "processes": 6, "create": 20})
        command = [sys.executable, lease_worker.__file__, orders]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        created = [line for line in done.stdout.splitlines() if line.startswith("created")]
        assert sorted(created) == ["created already stored"] * 5 + ["created created"]
        counts = [
            sql(f"SELECT count(*) FROM {table}") for table in ("studies", "trials", "alembic_version")
        ]
        assert counts == [[(1,)], [(20,)], [(1,)]]
    assert len(plain(url).trials) == 20


def test_threads_that_create_and_extend_studies_concurrently_store_each_trial_once(url, storage):
    stores = [studies.open_storage(url, create=False) for _ in range(6)]
    start, errors = threading.Barrier(len(stores)), []

    def create(mine):
        try:
            for number in range(8):
                definition = make_definition(8, {"lr": 0.5}).model_copy(update={"name": f"study-{number}"})
                start.wait()
                studies.create_study(mine, definition, "text")
                studies.enqueue_setting(mine, definition.name, definition.points[0])
        except BaseException as error:
            errors.append(error)
            start.abort()
            raise

    threads = [threading.Thread(target=create, args=(each,)) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for number in range(8):
        study = optuna.load_study(study_name=f"study-{number}", storage=url)
        assert [trial.number for trial in study.trials] == list(range(15))
        assert sum(trial.user_attrs.get("enqueued", False) for trial in study.trials) == 6
        assert len({trial.system_attrs["hpo:plan"] for trial in study.trials}) == 15


# Points with new values


def run(storage: Storage, definition: Definition) -> int:
    """Complete all waiting trials with their points' parameters, as a worker would; return their number."""
    study_id, count = studies.find_study_id(storage, NAME), 0
    while claim := claim_next(storage, study_id):
        with lease.keep_lease(claim):
            sampler = samplers.build_sampler(definition, claim.number)
            study = optuna.load_study(study_name=NAME, storage=storage, sampler=sampler)
            study.get_trials(deepcopy=False)  # Optuna's cache writes only to trials that it has read
            trial = optuna.Trial(study, claim.trial_id)
            point = definition.points[storage.get_trial(claim.trial_id).system_attrs["grid_id"]]
            for name in point.hyperparameters():
                space.suggest_value(trial, definition.parameters()[name])
            claim.end(TrialState.COMPLETE, value=0.5 + claim.number / 100)
        count += 1
    return count


FIRST = ({"model": "resnet18", "lr": 0.1}, {"model": "alexnet", "lr": 0.01})
LATER = (*FIRST, {"model": "vgg16", "lr": 1e-4}, {"model": "alexnet", "lr": 1.0})


def test_a_point_with_another_model_extends_the_stored_choices_and_changes_no_value(url, storage):
    definition = make_definition(0, *FIRST, sampler="grid")
    studies.create_study(storage, definition, "text")
    assert run(storage, definition) == 2
    before = [(trial.params, trial.value) for trial in plain(url).trials]
    more = make_definition(0, *LATER, sampler="grid")
    studies.create_study(storage, more, "text")
    assert [(trial.params, trial.value) for trial in plain(url).trials[:2]] == before
    assert run(storage, more) == 2
    study = plain(url)
    assert [trial.params for trial in study.trials] == list(LATER)
    for name in ("model", "lr"):
        assert len({str(trial.distributions[name]) for trial in study.trials}) == 1
    assert study.trials[0].distributions["model"] == CategoricalDistribution(
        ("resnet18", "alexnet", "vgg16")
    )
    importances = optuna.importance.get_param_importances(study)
    assert set(importances) >= {"model", "lr"}
    for evaluator in ("ped-anova", "fanova", "mdi"):
        assert importance.study_importance(storage, NAME, evaluator).trials == 4


@pytest.mark.parametrize("written", [0, 1], ids=["by the first trial", "by a later trial"])
def test_a_worker_with_the_definition_before_an_extension_writes_the_new_distribution(
    url, storage, written
):
    """The worker's value is stored as an element of the study's present list of choices."""
    definition = make_definition(0, *FIRST, sampler="grid")
    studies.create_study(storage, definition, "text")
    study_id = studies.find_study_id(storage, NAME)
    claims = [claim_next(storage, study_id) for _ in range(2)]

    def write(claim, models, model):
        claim.commit(parameters={"model": (models.to_internal_repr(model), models)})

    old = CategoricalDistribution(("resnet18", "alexnet"))
    if written:
        write(claims[0], old, "resnet18")
    studies.create_study(
        studies.open_storage(url, create=False), make_definition(0, *LATER, sampler="grid"), "text"
    )
    write(claims[1], old, "alexnet")
    new = CategoricalDistribution(("resnet18", "alexnet", "vgg16"))
    write(claim_next(storage, study_id), new, "vgg16")
    trials = plain(url).trials
    assert [trial.params.get("model") for trial in trials[1:3]] == ["alexnet", "vgg16"]
    assert {str(t.distributions["model"]) for t in trials if "model" in t.params} == {str(new)}
    if written:
        assert trials[0].params["model"] == "resnet18"


# Deleting


def test_deleting_a_study_removes_all_its_rows_and_no_others(url, storage, sql):
    kept = make_definition(2, {"lr": 0.5}).model_copy(update={"name": "kept"})
    studies.create_study(storage, kept, "text")
    before = {table: sql(f"SELECT * FROM {table}") for table in models.BaseModel.metadata.tables}
    studies.create_study(storage, make_definition(2, {"lr": 0.5}), "text")
    study_id = studies.find_study_id(storage, NAME)
    claim = claim_next(storage, study_id)
    claim.commit(checkpoint="c", report=(1, 0.5), user_attributes={"a": 1})
    studies.delete_study(storage, NAME)
    assert {table: sql(f"SELECT * FROM {table}") for table in before} == before
    assert sql("SELECT * FROM hpo_leases") == []
    check_refused(lambda: studies.read_definition(storage, NAME), "no study 'study'", "there are: kept")
    check_refused(lambda: studies.delete_study(storage, NAME), "no study 'study'")
    studies.delete_study(storage, "kept")
    check_refused(lambda: studies.artifacts_folder(storage, "kept"), "there are none yet")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_study_can_be_deleted_while_its_workers_run(url, storage, sql):
    studies.create_study(storage, make_definition(200), "text")
    study_id, errors = studies.find_study_id(storage, NAME), []

    def work():
        worker = studies.open_storage(url, create=False)
        try:
            while claim := claim_next(worker, study_id):
                with contextlib.suppress(lease.LeaseLost):
                    claim.commit(checkpoint="c", report=(1, 0.5), user_attributes={"a": 1, "b": 2})
                    claim.end(TrialState.COMPLETE, value=0.5)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(sql("SELECT * FROM trial_values")) < 10:
        time.sleep(0.01)
    studies.delete_study(storage, NAME)
    for thread in threads:
        thread.join()
    assert errors == []
    for table in ("studies", "trials", "trial_user_attributes", "hpo_leases"):
        assert sql(f"SELECT count(*) FROM {table}") == [(0,)]
