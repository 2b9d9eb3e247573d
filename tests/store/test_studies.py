"""The store: opening one, what studies are in the database, and what plain Optuna makes of them."""

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
from hpo.search import samplers
from hpo.store import database, lease, lease_table, plan, process, queue, status, storage, studies
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition
from tests.support import lease_worker, postgres
from tests.support.databases import closed_engines
from tests.support.lease_worker import NAME


def definition(trials: int = 3, *points, sampler: str = "tpe") -> Definition:
    made = lease_worker.definition(trials, *points)
    search = made.search.model_copy(
        update={"sampler": made.search.sampler.model_copy(update={"name": sampler})}
    )
    return made.model_copy(update={"search": search} | ({"space": ()} if sampler == "grid" else {}))


@pytest.fixture
def opened(url):
    return studies.open_storage(url, create=True)


def plain(url: str) -> optuna.Study:
    return optuna.load_study(study_name=NAME, storage=url)


def claimed(opened: Storage, study_id: int) -> lease.Claim | None:
    owner = process.current_owner("cpu")
    return queue.claim_trial(opened, study_id, owner, lease_seconds=60, max_attempts=1)


def refused(call, *words: str) -> str:
    """Check that a call ends in one line for the person at the terminal, with certain words in it."""
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
        ("mysql://u:secret@h/db", "mysql: want sqlite:///path or postgresql"),
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
def test_a_url_that_names_no_store_of_ours_is_refused_in_one_line(text, words):
    message = refused(lambda: studies.open_storage(text, create=True), words)
    assert "secret" not in message


def test_a_url_is_shown_without_its_password():
    url = database.parse_url("postgresql://user:s%7Be%7Dcr%25et@host:1/db?sslmode=require")
    assert url.password == "s{e}cr%et"
    assert database.hide_password(url) == "postgresql://user:***@host:1/db?sslmode=require"


def test_a_password_may_have_any_character_and_is_never_shown(caplog):
    password = "a{b}%c%%d'\"e\\f@g:h/i?j#k l&m=n"
    with postgres.running(password=password) as server, closed_engines():
        url = sa.make_url(server.url).set(password=password)
        opened = studies.open_storage(url.render_as_string(hide_password=False), create=True)
        studies.create_study(opened, definition(), "text")
        assert len(opened.get_all_studies()) == 1
        wrong = url.set(password=password + "!").render_as_string(hide_password=False)
        messages = [
            refused(lambda: studies.open_storage(wrong, create=True), "password authentication failed")
        ]
        server.stop()
        messages.append(
            refused(lambda: studies.create_study(opened, definition(), "text"), "store postgresql")
        )
        messages.append(refused(lambda: studies.open_storage(server.url, create=False), "127.0.0.1"))
        for secret in (password, "a{b}", "k l&m", "k%20l"):
            assert secret not in "".join(messages) + caplog.text


@pytest.mark.parametrize("name", ["a b", "100%", "100%41", "{x}", "ü#;'\"", "deeper/than/that"])
def test_an_sqlite_file_may_have_any_name(tmp_path, name):
    path = tmp_path / name / "hpo.db"
    url = sa.URL.create("sqlite", database=str(path)).render_as_string()
    with closed_engines():
        opened = studies.open_storage(url, create=True)
        studies.create_study(opened, definition(), "text")
        assert path.stat().st_size > 0
        assert studies.read_definition(studies.open_storage(url, create=False), NAME) == definition()


def test_there_is_no_store_where_nobody_made_one(url):
    refused(lambda: studies.open_storage(url, create=False), "no store at", "'hpo run STUDY' creates one")
    assert not url.startswith("sqlite") or not Path(url.removeprefix("sqlite:///")).exists()
    with sa.create_engine(url).connect() as connection:  # an empty file is none either
        connection.execute(sa.text("SELECT 1"))
    refused(lambda: studies.open_storage(url, create=False), "no store at")


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "hpo.db"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    for create in (True, False):
        refused(
            lambda create=create: studies.open_storage(f"sqlite:///{path}", create=create), "not a database"
        )
    refused(lambda: studies.open_storage(f"sqlite:///{tmp_path}", create=False), "unable to open")
    refused(lambda: studies.open_storage(f"sqlite:///{path}/hpo.db", create=True), "store sqlite:")


def test_a_server_that_is_not_there_is_refused():
    refused(
        lambda: studies.open_storage("postgresql://u:secret@127.0.0.1:1/db", create=True),
        "127.0.0.1",
        "refused",
    )
    refused(
        lambda: studies.open_storage("postgresql://u@no.such.host.invalid/db", create=False), "no.such.host"
    )


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_locked_database_is_refused_when_retrying_ends(url, opened, monkeypatch):
    monkeypatch.setattr(database, "LOCK_TIMEOUT_SECONDS", 0.1)
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused(lambda: studies.open_storage(url, create=False), "database is locked")


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_readers_do_not_wait_for_writers(url, opened):
    studies.create_study(opened, definition(), "text")
    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        end = threading.Timer(60, other.rollback)
        end.start()
        assert status.read_status(opened, NAME).state == "idle"
        assert other.in_transaction, "the reader did not wait for the writer"
        end.cancel()
        end.join()


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_read_only_file_can_be_read_and_not_written(url, opened):
    studies.create_study(opened, definition(), "text")
    path = url.removeprefix("sqlite:///")
    reader = studies.open_storage(f"sqlite:///file:{path}?mode=ro&uri=true", create=False)
    assert status.read_status(reader, NAME).trials["waiting"] == 3
    assert len(reader.get_all_trials(studies.find_study_id(reader, NAME))) == 3
    refused(lambda: studies.create_study(reader, definition(4), "text"), "readonly")
    refused(lambda: studies.delete_study(reader, NAME), "readonly")
    assert len(plain(url).trials) == 3


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_role_that_may_only_read_can_read_and_not_write(url, opened, sql):
    studies.create_study(opened, definition(), "text")
    sql("CREATE ROLE reader LOGIN")
    try:
        sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        limited = sa.make_url(url).set(username="reader").render_as_string(hide_password=False)
        reader = studies.open_storage(limited, create=False)
        assert status.read_status(reader, NAME).trials["waiting"] == 3
        refused(lambda: studies.create_study(reader, definition(4), "text"), "permission denied")
        refused(lambda: studies.delete_study(reader, NAME), "permission denied")
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


def test_a_store_that_plain_optuna_made_is_read_as_it_is_and_then_shared(url, sql):
    optuna.create_study(study_name="theirs", storage=url)
    reader = studies.open_storage(url, create=False)
    assert status.study_names(reader) == []
    for call in (studies.read_definition, studies.artifacts_folder, studies.delete_study):
        refused(lambda call=call: call(reader, "theirs"), "another tool")
    with pytest.raises(sa.exc.DatabaseError):
        sql("SELECT * FROM hpo_leases")
    opened = studies.open_storage(url, create=True)
    studies.create_study(opened, definition(), "text")
    theirs = definition().model_copy(update={"name": "theirs"})
    refused(lambda: studies.create_study(opened, theirs, "text"), "another tool")
    assert sorted(optuna.get_all_study_names(url)) == [NAME, "theirs"]


def test_tables_that_a_killed_process_left_half_made_are_finished(url):
    engine = sa.create_engine(url)
    for table in ("studies", "trials"):
        models.BaseModel.metadata.tables[table].create(engine)
    opened = studies.open_storage(url, create=True)
    studies.create_study(opened, definition(), "text")
    assert len(plain(url).trials) == 3


def test_our_table_is_made_last_so_that_whoever_sees_it_finds_the_others(url):
    versions = []

    def look(table, connection, **_):
        versions.append(connection.exec_driver_sql("SELECT count(*) FROM alembic_version").scalar_one())

    sa.event.listen(lease_table.leases, "before_create", look)
    try:
        studies.open_storage(url, create=True)
    finally:
        sa.event.remove(lease_table.leases, "before_create", look)
    assert versions == [1]


def test_tables_of_another_version_of_optuna_are_refused(url, opened, sql):
    sql("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    refused(lambda: studies.open_storage(url, create=False), "optuna storage upgrade")


@pytest.mark.parametrize(
    ("version", "sound"),
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
def test_a_write_ahead_log_is_for_an_sqlite_that_writes_it_soundly(tmp_path, monkeypatch, version, sound):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    with closed_engines():
        opened = studies.open_storage(f"sqlite:///{tmp_path}/hpo.db", create=True)
        with opened.engine.connect() as connection:
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
        assert (journal, synchronous) == ("wal" if sound else "delete", 2)


# Creating, extending


def test_a_study_is_stored_with_its_whole_budget_as_plain_optuna_sees_it(url, opened):
    made = definition(2, {"lr": 0.5, "epochs": 1}, {"optimizer": "adam"})
    assert studies.create_study(opened, made, "name = 'study'")
    study = plain(url)
    assert study.metric_names == ["accuracy"]
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert opened.get_study_system_attrs(study._study_id)["hpo:file"] == "name = 'study'"
    assert study.user_attrs["folder"] == studies.artifacts_folder(opened, NAME)
    assert study.user_attrs["selection"] == "valid"
    assert [(t.number, t.state) for t in study.trials] == [(n, TrialState.WAITING) for n in range(4)]
    one, two, three, _ = study.trials
    assert one.user_attrs == {"point": 1}
    assert one.system_attrs["fixed_params"] == {"lr": 0.5}
    assert one.system_attrs[plan.RUN_OPTIONS] == {"epochs": 1}
    assert two.system_attrs["fixed_params"] == {"lr": made.train["lr"], "optimizer": "adam"}
    assert three.user_attrs == {}
    assert "fixed_params" not in three.system_attrs
    assert studies.read_definition(opened, NAME) == made
    assert status.study_names(opened) == [NAME]


def test_creating_the_same_study_again_changes_nothing(url, opened, sql):
    made = definition(2, {"lr": 0.5})
    assert studies.create_study(opened, made, "text")
    before = sql("SELECT * FROM trials")
    assert not studies.create_study(opened, made, "text")
    assert sql("SELECT * FROM trials") == before


def test_a_study_is_extended_by_trials_and_points_whose_numbers_follow(url, opened):
    studies.create_study(opened, definition(1, {"lr": 0.5}), "text")
    studies.create_study(opened, definition(3, {"lr": 0.5}, {"lr": 0.25}), "more")
    trials = plain(url).trials
    assert [trial.user_attrs.get("point") for trial in trials] == [1, None, 2, None, None]
    assert [trial._trial_id for trial in trials] == sorted(trial._trial_id for trial in trials)
    assert opened.get_study_system_attrs(plain(url)._study_id)["hpo:file"] == "more"


def test_any_other_change_is_refused_and_stores_nothing(url, opened, sql):
    studies.create_study(opened, definition(3), "text")
    before = sql("SELECT * FROM study_system_attributes")
    other = definition(4).model_copy(update={"train": definition().train | {"epochs": 7}})
    with pytest.raises(DefinitionError, match=r"train.epochs: 3 -> 7"):
        studies.create_study(opened, other, "text")
    with pytest.raises(DefinitionError, match=r"search.trials: 3 -> 2"):
        studies.create_study(opened, definition(2), "text")
    assert sql("SELECT * FROM study_system_attributes") == before
    assert len(plain(url).trials) == 3


def test_a_creation_that_fails_half_way_leaves_nothing(opened, sql):
    with pytest.raises(TypeError):
        studies.create_study(opened, definition(3), object())
    assert sql("SELECT * FROM studies") == sql("SELECT * FROM trials") == []
    studies.create_study(opened, definition(3), "text")


def test_a_thousand_trials_are_stored_in_one_transaction(url, opened):
    commits = []
    sa.event.listen(opened.engine, "commit", commits.append)
    studies.create_study(opened, definition(1000), "text")
    assert len(commits) == 1
    assert [trial.number for trial in plain(url).get_trials(deepcopy=False)] == list(range(1000))


def test_a_setting_queued_by_hand_is_a_trial_more_and_goes_first(url, opened):
    studies.create_study(opened, definition(2), "text")
    point = definition(0, {"lr": 0.125}).points[0]
    assert studies.enqueue_setting(opened, NAME, point) == 2
    assert studies.enqueue_setting(opened, NAME, point) == 3
    trials = plain(url).trials
    assert [trial.user_attrs for trial in trials] == [{}, {}, {"enqueued": True}, {"enqueued": True}]
    assert trials[2].system_attrs["fixed_params"] == {"lr": 0.125}
    study_id = studies.find_study_id(opened, NAME)
    claim = claimed(opened, study_id)
    assert claim.number == 2
    refused(lambda: studies.enqueue_setting(opened, "studdy", point), "did you mean 'study'?")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_numbers_stay_distinct_while_plain_optuna_queues_and_we_extend(url, opened):
    studies.create_study(opened, definition(1), "text")
    theirs = plain(url)
    start = threading.Barrier(2)

    def queue():
        start.wait()
        for index in range(30):
            theirs.enqueue_trial({"lr": 0.001 * (index + 1)})

    thread = threading.Thread(target=queue)
    thread.start()
    start.wait()
    for count in range(2, 32):
        studies.create_study(opened, definition(count), "text")
    thread.join()
    assert sorted(trial.number for trial in plain(url).trials) == list(range(61))


@pytest.mark.parametrize("rounds", [2])
def test_six_processes_that_create_one_study_at_once_make_one(url, sql, tmp_path, rounds):
    for number in range(rounds):
        if number:  # from the empty database on
            if url.startswith("sqlite"):
                Path(url.removeprefix("sqlite:///")).unlink()
            else:
                sql("DROP SCHEMA public CASCADE")
                sql("CREATE SCHEMA public")
        orders = json.dumps({"url": url, "processes": 6, "create": 20})
        command = [sys.executable, lease_worker.__file__, orders]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        said = [line for line in done.stdout.splitlines() if line.startswith("created")]
        assert sorted(said) == ["created False"] * 5 + ["created True"]
        counts = [
            sql(f"SELECT count(*) FROM {table}") for table in ("studies", "trials", "alembic_version")
        ]
        assert counts == [[(1,)], [(20,)], [(1,)]]
    assert len(plain(url).trials) == 20


def test_threads_that_create_and_extend_one_study_at_the_same_moment_agree(url, opened):
    stores = [studies.open_storage(url, create=False) for _ in range(6)]
    start, errors = threading.Barrier(len(stores)), []

    def create(mine):
        try:
            for number in range(8):
                made = definition(8, {"lr": 0.5}).model_copy(update={"name": f"study-{number}"})
                start.wait()
                studies.create_study(mine, made, "text")
                studies.enqueue_setting(mine, made.name, made.points[0])
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


# Points with values that no trial had before


def run(opened: Storage, made: Definition) -> int:
    """Give every trial that waits its point's parameters, as a worker would; tell how many there were."""
    study_id, count = studies.find_study_id(opened, NAME), 0
    while claim := claimed(opened, study_id):
        with lease.keep_lease(claim):
            sampler = samplers.build_sampler(made, claim.number)
            study = optuna.load_study(study_name=NAME, storage=opened, sampler=sampler)
            study.get_trials(deepcopy=False)  # Optuna's cache writes only for trials that it has read
            trial = optuna.Trial(study, claim.trial_id)
            point = made.points[opened.get_trial(claim.trial_id).system_attrs["grid_id"]]
            for name in point.hyperparameters():
                space.suggest_value(trial, made.parameters()[name])
            claim.end(TrialState.COMPLETE, value=0.5 + claim.number / 100)
        count += 1
    return count


FIRST = ({"model": "resnet18", "lr": 0.1}, {"model": "alexnet", "lr": 0.01})
LATER = (*FIRST, {"model": "vgg16", "lr": 1e-4}, {"model": "alexnet", "lr": 1.0})


def test_a_point_with_another_model_widens_what_is_stored_and_changes_no_value(url, opened):
    made = definition(0, *FIRST, sampler="grid")
    studies.create_study(opened, made, "text")
    assert run(opened, made) == 2
    before = [(trial.params, trial.value) for trial in plain(url).trials]
    more = definition(0, *LATER, sampler="grid")
    studies.create_study(opened, more, "text")
    assert [(trial.params, trial.value) for trial in plain(url).trials[:2]] == before
    assert run(opened, more) == 2
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
        assert importance.study_importance(opened, NAME, evaluator).trials == 4


@pytest.mark.parametrize("written", [0, 1], ids=["by the first trial", "by a later trial"])
def test_a_worker_that_knows_the_study_from_before_it_was_extended_writes_what_it_is_now(
    url, opened, written
):
    """Its definition is from before; its value lands in the list there is now."""
    made = definition(0, *FIRST, sampler="grid")
    studies.create_study(opened, made, "text")
    study_id = studies.find_study_id(opened, NAME)
    claims = [claimed(opened, study_id) for _ in range(2)]

    def write(claim, models, model):
        claim.commit(parameters={"model": (models.to_internal_repr(model), models)})

    old = CategoricalDistribution(("resnet18", "alexnet"))
    if written:
        write(claims[0], old, "resnet18")
    studies.create_study(
        studies.open_storage(url, create=False), definition(0, *LATER, sampler="grid"), "text"
    )
    write(claims[1], old, "alexnet")
    new = CategoricalDistribution(("resnet18", "alexnet", "vgg16"))
    write(claimed(opened, study_id), new, "vgg16")
    trials = plain(url).trials
    assert [trial.params.get("model") for trial in trials[1:3]] == ["alexnet", "vgg16"]
    assert {str(t.distributions["model"]) for t in trials if "model" in t.params} == {str(new)}
    if written:
        assert trials[0].params["model"] == "resnet18"


# Deleting


def test_a_deleted_study_leaves_nothing_and_the_others_alone(url, opened, sql):
    kept = definition(2, {"lr": 0.5}).model_copy(update={"name": "kept"})
    studies.create_study(opened, kept, "text")
    before = {table: sql(f"SELECT * FROM {table}") for table in models.BaseModel.metadata.tables}
    studies.create_study(opened, definition(2, {"lr": 0.5}), "text")
    study_id = studies.find_study_id(opened, NAME)
    claim = claimed(opened, study_id)
    claim.commit(checkpoint="c", report=(1, 0.5), user_attributes={"a": 1})
    studies.delete_study(opened, NAME)
    assert {table: sql(f"SELECT * FROM {table}") for table in before} == before
    assert sql("SELECT * FROM hpo_leases") == []
    refused(lambda: studies.read_definition(opened, NAME), "no study 'study'", "there are: kept")
    refused(lambda: studies.delete_study(opened, NAME), "no study 'study'")
    studies.delete_study(opened, "kept")
    refused(lambda: studies.artifacts_folder(opened, "kept"), "there are none yet")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_study_can_be_deleted_under_its_workers(url, opened, sql):
    studies.create_study(opened, definition(200), "text")
    study_id, errors = studies.find_study_id(opened, NAME), []

    def work():
        worker = studies.open_storage(url, create=False)
        try:
            while claim := claimed(worker, study_id):
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
    studies.delete_study(opened, NAME)
    for thread in threads:
        thread.join()
    assert errors == []
    for table in ("studies", "trials", "trial_user_attributes", "hpo_leases"):
        assert sql(f"SELECT count(*) FROM {table}") == [(0,)]


def test_two_deadlocked_transactions_both_succeed_even_without_retrying(cluster):
    with postgres.database(cluster) as url, closed_engines():
        opened = studies.open_storage(url, create=True)
        studies.create_study(opened, definition(2), "text")
        both, tried = threading.Barrier(2), []

        def work(first, second):
            with opened.transaction() as session:
                session.execute(sa.text("UPDATE trials SET state = state WHERE number = :n"), {"n": first})
                tried.append(first)
                if tried.count(first) == 1:
                    both.wait(10)
                session.execute(sa.text("UPDATE trials SET state = state WHERE number = :n"), {"n": second})

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            orders = (functools.partial(work, 0, 1), functools.partial(work, 1, 0))
            for turn in [pool.submit(opened.retry, order, 0.0) for order in orders]:
                turn.result(30)
    assert len(tried) == 3, "one of the two was ended, and tried again"


# A database that is away


def test_retrying_is_bounded_and_ends_sooner_once_asked_to_stop(monkeypatch):
    with postgres.running() as server, closed_engines():
        opened = studies.open_storage(server.url, create=True)
        studies.create_study(opened, definition(), "text")
        server.stop()
        begun = time.monotonic()
        tried = []

        def ask():
            tried.append(time.monotonic() - begun)
            with opened.transaction() as session:
                session.execute(sa.text("SELECT 1"))

        refused(lambda: opened.retry(ask, max_wait_seconds=1.0), "127.0.0.1")
        assert 1.0 <= tried[-1] < 100
        assert len(tried) >= 2
        monkeypatch.setattr(storage, "STOPPING_WAIT_SECONDS", 0.2)
        opened.stop.set()
        refused(lambda: studies.read_definition(opened, NAME), "127.0.0.1")
        opened.stop.clear()
        thread = threading.Timer(0.3, server.start)
        thread.start()
        assert studies.read_definition(opened, NAME) == definition()
        assert [trial.state for trial in opened.get_all_trials(1)] == [TrialState.WAITING] * 3
        thread.join()


def test_what_is_our_own_fault_is_not_tried_again(opened):
    tried = []

    def ask():
        tried.append(1)
        with opened.transaction() as session:
            session.execute(sa.text("SELECT * FROM no_such_table"))

    with pytest.raises(optuna.exceptions.StorageInternalError):
        opened.retry(ask)
    assert len(tried) == 1


# Optuna


def test_what_we_lean_on_in_optuna_is_as_we_know_it(opened):
    """The semi-private parts; a new Optuna that changes one is to be looked at before it is allowed."""

    known = {
        RDBStorage._set_trial_param: ["trial_id", "param_name", "param_value_internal", "distribution"],
        RDBStorage._get_best_trial_id: ["study_id", "direction"],
        RDBStorage._get_trials: ["study_id", "states", "included_trial_ids", "trial_id_greater_than"],
    }
    for function, first in known.items():
        assert list(inspect.signature(function).parameters)[1 : len(first) + 1] == first
    session = inspect.signature(rdb._create_scoped_session)
    assert list(session.parameters) == ["scoped_session", "ignore_integrity_error"]
    # One session a thread: what Optuna writes next commits with what we wrote.
    session = opened.scoped_session()
    assert opened.scoped_session() is session
    session.close()
    columns = {
        "studies": {"study_id", "study_name"},
        "trials": {"trial_id", "number", "study_id", "state", "datetime_start", "datetime_complete"},
        "trial_params": {"trial_id", "param_name", "param_value", "distribution_json"},
        "trial_system_attributes": {"trial_id", "key", "value_json"},
    }
    for table, names in columns.items():
        assert names <= set(models.BaseModel.metadata.tables[table].c.keys())


def test_every_writer_of_optunas_passes_the_fence(opened):
    """Whatever Optuna's storage may do to a trial is refused when the trial's fence refuses."""
    changing = {name for name in dir(RDBStorage) if name.startswith(("set_trial", "_set_trial"))}
    staged = {name for name in changing if name.endswith("without_commit")}
    ours = {name for name in changing - staged if name in vars(Storage)}
    assert changing - staged - ours == {"set_trial_param"}  # which calls _set_trial_param


def test_a_store_imports_no_torch():
    code = "import sys; from hpo.store import lease, studies; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request, tmp_path_factory):
    """A store for all of Optuna's tests."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(closed_engines())
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path_factory.mktemp('shared')}/hpo.db"
        else:
            url = stack.enter_context(postgres.database(request.getfixturevalue("cluster")))
        yield studies.open_storage(url, create=True)


class TestOptunasOwnSuite(StorageTestCase):
    """What Optuna asks of anyone's storage."""

    @pytest.fixture
    def storage(self, shared):
        yield shared
        with shared.transaction() as session:
            for table in reversed(models.BaseModel.metadata.sorted_tables):
                if table.name != "version_info":
                    session.execute(sa.delete(table))
