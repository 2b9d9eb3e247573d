"""The store: opening it, the studies in its database, and how plain Optuna reads them."""

import concurrent.futures
import contextlib
import functools
import inspect
import json
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.storages._rdb import storage as rdb
from optuna.testing.pytest_storages import StorageTestCase
from optuna.trial import TrialState

from hpo.analysis import importance
from hpo.errors import DefinitionError, StoreError
from hpo.retry import MAX_WAIT_SECONDS
from hpo.search import samplers
from hpo.store import database, lease, lease_table, plan, status, studies
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition
from tests.support import lease_worker, postgres
from tests.support.databases import closed_engines
from tests.support.lease_worker import NAME, claim_next


def make_definition(trials: int = 3, *points, sampler: str = "tpe") -> Definition:
    definition = lease_worker.definition(trials, *points)
    search = definition.search.model_copy(
        update={"sampler": definition.search.sampler.model_copy(update={"name": sampler})}
    )
    return definition.model_copy(update={"search": search} | ({"space": ()} if sampler == "grid" else {}))


@pytest.fixture
def storage(with_tables):
    return studies.open_storage(with_tables, create=True)


def plain(url: str) -> optuna.Study:
    return optuna.load_study(study_name=NAME, storage=url)


def check_refused(call, *words: str) -> str:
    """Check that a call raises a StoreError of one line with certain words, and return that line."""
    with pytest.raises(StoreError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


# Opening


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("storage/hpo.db", "not a URL"),
        ("mysql://u:secret@h/db", "'mysql': want sqlite:///path or postgresql"),
        ("postgresql+psycopg2://u:secret@h/db", "want sqlite:///path or postgresql"),
        ("sqlite://", "name a file"),
        ("sqlite:///:memory:", "name a file"),
        ("sqlite://storage/hpo.db", "three slashes"),
        ("sqlite:///file:x?mode=memory&cache=shared&uri=true", "mode=ro"),
        ("sqlite:///x.db?nolock=1&uri=true", "mode=ro"),
        ("postgresql://u:se@secret@h/db", "%40"),
        ("postgresql://u:secret:1@h:x/db", "not a URL"),
        *(
            (f"postgresql://u:secret@h/db?{key}=secret", f"?{key} is not allowed")
            for key in ("host", "hostaddr", "port", "dbname", "service", "user", "password", "passfile")
        ),
        ("postgresql://u:secret@h/db?sslmode=require&options=-csecret", "?options is not allowed"),
    ],
)
def test_an_unsupported_url_is_refused_in_one_line(text, words):
    message = check_refused(lambda: studies.open_storage(text, create=True), words)
    assert "secret" not in message


def test_a_url_is_shown_without_its_password():
    url = database.parse_url("postgresql://user:s%7Be%7Dcr%25et@host:1/db?sslmode=require")
    assert url.password == "s{e}cr%et"
    assert database.hide_password(url) == "postgresql://user:***@host:1/db?sslmode=require"


def test_a_password_may_have_any_character_and_is_never_shown(caplog):
    password = "a{b}%c%%d'\"e\\f@g:h/i?j#k l&m=n"
    with postgres.running(password=password) as server, closed_engines():
        url = sa.make_url(server.url).set(password=password)
        storage = studies.open_storage(url.render_as_string(hide_password=False), create=True)
        studies.create_study(storage, make_definition(), "text")
        assert len(storage.get_all_studies()) == 1
        wrong = url.set(password=password + "!").render_as_string(hide_password=False)
        messages = [
            check_refused(
                lambda: studies.open_storage(wrong, create=True), "password authentication failed"
            )
        ]
        server.stop()
        messages.append(
            check_refused(
                lambda: studies.create_study(storage, make_definition(), "text"), "store postgresql"
            )
        )
        messages.append(check_refused(lambda: studies.open_storage(server.url, create=False), "127.0.0.1"))
        for part in (password, "a{b}", "k l&m", "k%20l"):
            assert part not in "".join(messages) + caplog.text


@pytest.mark.parametrize("name", ["a b", "100%", "100%41", "{x}", "ü#;'\"", "deeper/than/that"])
def test_an_sqlite_file_may_have_any_name(tmp_path, name):
    path = tmp_path / name / "hpo.db"
    url = sa.URL.create("sqlite", database=str(path)).render_as_string()
    with closed_engines():
        storage = studies.open_storage(url, create=True)
        studies.create_study(storage, make_definition(), "text")
        assert path.stat().st_size > 0
        assert studies.read_definition(studies.open_storage(url, create=False), NAME) == make_definition()


def test_a_missing_store_is_refused_unless_it_may_be_created(url):
    check_refused(
        lambda: studies.open_storage(url, create=False), "no store at", "'hpo run STUDY' creates one"
    )
    assert not url.startswith("sqlite") or not Path(url.removeprefix("sqlite:///")).exists()
    with sa.create_engine(url).connect() as connection:  # an empty database is no store either
        connection.execute(sa.text("SELECT 1"))
    check_refused(lambda: studies.open_storage(url, create=False), "no store at")


def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    path = tmp_path / "hpo.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    for create in (True, False):
        check_refused(
            lambda create=create: studies.open_storage(f"sqlite:///{path}", create=create), "not a database"
        )
    check_refused(lambda: studies.open_storage(f"sqlite:///{tmp_path}", create=False), "found a folder")
    check_refused(lambda: studies.open_storage(f"sqlite:///{path}/hpo.db", create=True), "store sqlite:")


def test_an_unreachable_server_is_refused():
    check_refused(
        lambda: studies.open_storage("postgresql://u:secret@127.0.0.1:1/db", create=True),
        "127.0.0.1",
        "refused",
    )
    check_refused(
        lambda: studies.open_storage("postgresql://u@no.such.host.invalid/db", create=False), "no.such.host"
    )


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_locked_database_is_refused_when_retrying_ends(url, storage, monkeypatch):
    monkeypatch.setattr(database, "LOCK_TIMEOUT_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        check_refused(lambda: studies.open_storage(url, create=False), "database is locked")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_readers_do_not_wait_for_writers(url, storage):
    studies.create_study(storage, make_definition(), "text")
    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        end = threading.Timer(60, other.rollback)
        end.start()
        assert status.read_status(storage, NAME).state == "idle"
        assert other.in_transaction, "the reader did not wait for the writer"
        end.cancel()
        end.join()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_read_only_file_can_be_read_and_not_written(url, storage):
    studies.create_study(storage, make_definition(), "text")
    path = url.removeprefix("sqlite:///")
    reader = studies.open_storage(f"sqlite:///file:{path}?mode=ro&uri=true", create=False)
    assert status.read_status(reader, NAME).trials["waiting"] == 3
    assert len(reader.get_all_trials(studies.find_study_id(reader, NAME))) == 3
    check_refused(lambda: studies.create_study(reader, make_definition(4), "text"), "readonly")
    check_refused(lambda: studies.delete_study(reader, NAME), "readonly")
    assert len(plain(url).trials) == 3


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_read_only_role_can_read_and_not_write(url, storage, sql):
    studies.create_study(storage, make_definition(), "text")
    sql("CREATE ROLE reader LOGIN")
    try:
        sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        limited = sa.make_url(url).set(username="reader").render_as_string(hide_password=False)
        reader = studies.open_storage(limited, create=False)
        assert status.read_status(reader, NAME).trials["waiting"] == 3
        wanted = ("permission denied", "name a user in --store who may do this")
        check_refused(lambda: studies.create_study(reader, make_definition(4), "text"), *wanted)
        check_refused(lambda: studies.delete_study(reader, NAME), *wanted)
    finally:
        sql("DROP OWNED BY reader")
        sql("DROP ROLE reader")


def test_a_study_of_plain_optuna_is_recognised_by_every_verb(workplace, url, sql):
    optuna.create_study(study_name="theirs", storage=url)
    for verb in ("status", "best", "trials", "delete", "pause", "launch"):
        code = 78 if verb == "launch" else 1
        assert "another tool" in workplace.here(verb, "theirs", code=code, HPO_STORE=url).err
    with pytest.raises(sa.exc.DatabaseError):
        sql("SELECT * FROM hpo_leases")


def test_a_store_created_by_plain_optuna_is_read_unchanged_and_can_be_shared(url, sql):
    optuna.create_study(study_name="theirs", storage=url)
    reader = studies.open_storage(url, create=False)
    assert studies.study_names(reader) == []
    for call in (studies.read_definition, studies.artifacts_folder, studies.delete_study):
        check_refused(lambda call=call: call(reader, "theirs"), "another tool")
    with pytest.raises(sa.exc.DatabaseError):
        sql("SELECT * FROM hpo_leases")
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, make_definition(), "text")
    theirs = make_definition().model_copy(update={"name": "theirs"})
    check_refused(lambda: studies.create_study(storage, theirs, "text"), "another tool")
    assert sorted(optuna.get_all_study_names(url)) == [NAME, "theirs"]


def test_tables_left_incomplete_by_a_killed_process_are_completed(url):
    engine = sa.create_engine(url)
    for table in ("studies", "trials"):
        models.BaseModel.metadata.tables[table].create(engine)
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, make_definition(), "text")
    assert len(plain(url).trials) == 3


def test_the_lease_table_is_created_after_all_others(url):
    versions = []

    def count_versions(table, connection, **_):
        versions.append(connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar_one())

    sa.event.listen(lease_table.leases, "before_create", count_versions)
    try:
        studies.open_storage(url, create=True)
    finally:
        sa.event.remove(lease_table.leases, "before_create", count_versions)
    assert versions == [1]


def test_tables_of_another_version_of_optuna_are_refused(url, storage, sql):
    sql("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    check_refused(lambda: studies.open_storage(url, create=False), "optuna storage upgrade")


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
    ],
)
def test_a_write_ahead_log_is_used_only_with_a_safe_version_of_sqlite(tmp_path, monkeypatch, version, safe):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    with closed_engines():
        storage = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
        with storage.engine.connect() as connection:
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
        assert (journal, synchronous) == ("wal" if safe else "delete", 2)


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


def test_two_deadlocked_transactions_both_succeed_even_without_retrying(cluster):
    with postgres.database(cluster) as url, closed_engines():
        storage = studies.open_storage(url, create=True)
        studies.create_study(storage, make_definition(2), "text")
        both, tried = threading.Barrier(2), []

        def work(first, second):
            with storage.transaction() as session:
                session.execute(sa.text("UPDATE trials SET state = state WHERE number = :n"), {"n": first})
                tried.append(first)
                if tried.count(first) == 1:
                    both.wait(10)
                session.execute(sa.text("UPDATE trials SET state = state WHERE number = :n"), {"n": second})

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = (functools.partial(work, 0, 1), functools.partial(work, 1, 0))
            for future in [pool.submit(storage.retry, job, 0.0) for job in jobs]:
                future.result(30)
    assert len(tried) == 3, "one of the two was aborted and retried"


# A database that is unavailable


def test_retrying_is_bounded_and_ends_sooner_after_a_request_to_stop(monkeypatch):
    with postgres.running() as server, closed_engines():
        storage = studies.open_storage(server.url, create=True)
        studies.create_study(storage, make_definition(), "text")
        server.stop()
        begun = time.monotonic()
        tried = []

        def ask():
            tried.append(time.monotonic() - begun)
            with storage.transaction() as session:
                session.execute(sa.text("SELECT 1"))

        check_refused(lambda: storage.retry(ask), "127.0.0.1")
        assert len(tried) == 1, "what somebody waits for is tried once"
        storage.max_wait_seconds = MAX_WAIT_SECONDS
        check_refused(lambda: storage.retry(ask, max_wait_seconds=1.0), "127.0.0.1")
        assert 1.0 <= tried[-1] < 100
        assert len(tried) >= 3
        monkeypatch.setattr("hpo.store.storage.STOPPING_WAIT_SECONDS", 0.2)
        storage.stop.set()
        check_refused(lambda: studies.read_definition(storage, NAME), "127.0.0.1")
        storage.stop.clear()
        thread = threading.Timer(0.3, server.start)
        thread.start()
        assert studies.read_definition(storage, NAME) == make_definition()
        assert [trial.state for trial in storage.get_all_trials(1)] == [TrialState.WAITING] * 3
        thread.join()


def test_an_invalid_statement_is_not_retried(storage):
    tried = []

    def ask():
        tried.append(1)
        with storage.transaction() as session:
            session.execute(sa.text("SELECT no_such_function()"))

    with pytest.raises(optuna.exceptions.StorageInternalError):
        storage.retry(ask)
    assert len(tried) == 1


# Assumptions about Optuna


def test_optunas_private_interfaces_that_hpo_uses_are_unchanged(storage):
    """A version of Optuna that changes one of these must be reviewed before it is allowed."""
    known = {
        RDBStorage._set_trial_param: ["trial_id", "param_name", "param_value_internal", "distribution"],
        RDBStorage._get_best_trial_id: ["study_id", "direction"],
        RDBStorage._get_trials: ["study_id", "states", "included_trial_ids", "trial_id_greater_than"],
    }
    for function, first in known.items():
        assert list(inspect.signature(function).parameters)[1 : len(first) + 1] == first
    session = inspect.signature(rdb._create_scoped_session)
    assert list(session.parameters) == ["scoped_session", "ignore_integrity_error"]
    # One session per thread: Optuna's next write is committed together with ours.
    session = storage.scoped_session()
    assert storage.scoped_session() is session
    session.close()
    columns = {
        "studies": {"study_id", "study_name"},
        "trials": {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
        "trial_params": {"trial_id", "param_name", "param_value", "distribution_json"},
        "trial_system_attributes": {"trial_id", "key", "value_json"},
    }
    for table, names in columns.items():
        assert names <= set(models.BaseModel.metadata.tables[table].c.keys())


def test_every_write_method_of_optunas_storage_is_fenced(storage):
    """Each method of Optuna's storage that changes a trial is refused when the trial's fence refuses."""
    changing = {name for name in dir(RDBStorage) if name.startswith(("set_trial", "_set_trial"))}
    staged = {name for name in changing if name.endswith("without_commit")}
    overridden = {name for name in changing - staged if name in vars(Storage)}
    assert changing - staged - overridden == {"set_trial_param"}  # which calls _set_trial_param


def test_the_store_does_not_import_torch():
    code = "import sys; from hpo.store import lease, studies; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def shared(request, tmp_path_factory):
    """Return a storage for all of Optuna's tests."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(closed_engines())
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('shared')}/hpo.db"
        else:
            url = stack.enter_context(postgres.database(request.getfixturevalue("cluster")))
        yield studies.open_storage(url, create=True)


class TestOptunasOwnSuite(StorageTestCase):
    """Optuna's own tests for storages."""

    @pytest.fixture
    def storage(self, shared):
        yield shared
        with shared.transaction() as session:
            for table in reversed(models.BaseModel.metadata.sorted_tables):
                if table.name != "version_info":
                    session.execute(sa.delete(table))
