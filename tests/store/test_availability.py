"""A store that is away for a while, and one that refuses: which is which, and what users read."""

import os
import sqlite3
import threading
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.errors import StoreError, StoreUnavailable
from hpo.retry import MAX_WAIT_SECONDS
from hpo.store import control, database, database_errors, studies, warm_start
from hpo.study.search_options import Search
from tests.support import lease_worker, postgres, two_trials
from tests.support.databases import closed_engines
from tests.support.lease_worker import NAME
from tests.support.log_lines import messages

STUDY, OWN = two_trials.STUDY, two_trials.OWN


def error_of(call) -> StoreError:
    """Return the StoreError that a call raises, which is one line."""
    with pytest.raises(StoreError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return raised.value


@pytest.fixture(scope="module")
def guarded():
    """Return the URL of a server that wants a password, with the right one."""
    with postgres.running(password="right") as server:
        yield sa.make_url(server.url).set(password="right")


def text_of(url: sa.URL) -> str:
    return url.render_as_string(hide_password=False)


REFUSALS = {
    "wrong password": ({"password": "wrong"}, "PGPASSWORD or ~/.pgpass"),
    "no password": ({"password": ""}, "PGPASSWORD or ~/.pgpass"),
    "missing role": ({"username": "nobody"}, "check the user and password of --store"),
    "missing database": ({"database": "absent"}, "create it, or check its name in --store"),
    "no TLS": ({"query": {"sslmode": "require"}}, "check sslmode"),
    "nonsense sslmode": ({"query": {"sslmode": "nonsense"}}, 'invalid sslmode value: "nonsense"'),
    "nonsense port": ({"port": 70000}, "want a port from 1 to 65535, found 70000"),
    "nonsense host": ({"host": "a b"}, "'a b' is no host's name or address"),
    "long host": ({"host": "a" * 64}, "is no host's name or address"),
}


def test_a_server_that_refuses_is_not_away_and_the_message_says_what_to_do(guarded, monkeypatch):
    monkeypatch.setenv("PGPASSFILE", "/nonexistent")
    for what, (changed, advice) in REFUSALS.items():
        for create in (False, True):
            url = text_of(guarded.set(**changed))
            error = error_of(lambda url=url, create=create: studies.open_storage(url, create=create))
            assert not isinstance(error, StoreUnavailable), what
            assert advice in str(error), what
            assert "right" not in str(error), what


def test_a_worker_exits_with_78_where_no_restart_helps_and_with_1_where_one_can(workplace, guarded):
    with closed_engines():
        for changed in ({"password": "wrong"}, {"database": "absent"}):
            url = text_of(guarded.set(**changed))
            for verb, code in (("worker", 78), ("launch", 78), ("status", 1), ("pause", 1), ("retry", 1)):
                words = (verb, "small", *(["--failed"] if verb == "retry" else []))
                done = workplace.here(*words, code=code, HPO_STORE=url)
                assert done.err.count("\n") == 1, done.err
        for verb in ("worker", "launch", "status"):
            workplace.here(verb, "small", code=1, HPO_STORE="postgresql://u@127.0.0.1:1/db")


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("57P01", StoreUnavailable),  # terminated by an administrator
        ("57P03", StoreUnavailable),  # starts up
        ("53300", StoreUnavailable),  # too many connections
        ("55P03", StoreUnavailable),  # a lock for too long
        ("40P01", StoreUnavailable),  # a deadlock
        ("08006", StoreUnavailable),
        ("53100", StoreError),  # disk full
        ("58030", StoreError),  # cannot read or write a file
        ("42501", StoreError),
        ("42P01", StoreError),  # no such table
        ("22012", None),  # a division by zero: a bug of ours
    ],
)
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_servers_errors_are_told_apart_by_their_codes(url, state, meaning):
    storage = studies.open_storage(url, create=True)
    with pytest.raises(sa.exc.SQLAlchemyError) as raised, storage.engine.connect() as connection:
        connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING errcode = '{state}'; END $$")
    found = database_errors.store_error(storage.location, raised.value)
    assert found is None if meaning is None else type(found) is meaning


def test_a_call_within_a_call_that_is_tried_once_is_tried_once(with_tables):
    storage = studies.open_storage(with_tables, create=True)
    storage.max_wait_seconds = MAX_WAIT_SECONDS
    tried = []

    def away():
        tried.append(1)
        raise sa.exc.OperationalError("SELECT 1", {}, sqlite3_error(sqlite3.SQLITE_BUSY))

    error = error_of(lambda: storage.retry(lambda: storage.retry(away), max_wait_seconds=0.0))
    assert isinstance(error, StoreUnavailable)
    assert len(tried) == 1


def sqlite3_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    return error


# Files


def test_a_file_that_disappears_is_reported_and_not_replaced_by_an_empty_one(tmp_path):
    path = tmp_path / "hpo.db"
    with closed_engines():
        storage = studies.open_storage(f"sqlite:///{path}", create=True)
        storage.max_wait_seconds = MAX_WAIT_SECONDS
        studies.create_study(storage, lease_worker.definition(1), "text")
        storage.engine.dispose()
        path.unlink()
        error = error_of(lambda: studies.read_definition(storage, NAME))
        assert "unable to open database file" in str(error)
        assert not path.exists()


@pytest.mark.parametrize("how", ["truncated", "overwritten", "emptied", "moved"])
def test_a_file_that_is_changed_below_hpo_is_refused_in_one_line(tmp_path, how):
    path = tmp_path / "hpo.db"
    with closed_engines():
        storage = studies.open_storage(f"sqlite:///{path}", create=True)
        storage.max_wait_seconds = MAX_WAIT_SECONDS
        studies.create_study(storage, lease_worker.definition(1), "text")
        if how == "truncated":
            os.truncate(path, 8192)
        elif how == "overwritten":
            path.write_bytes(b"something else " * 9000)
        elif how == "emptied":
            os.truncate(path, 0)
        else:
            path.rename(tmp_path / "elsewhere.db")
        error = error_of(lambda: control.set_order(storage, NAME, "paused"))
        assert not isinstance(error, StoreUnavailable)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_server_whose_tables_are_gone_is_refused_in_one_line(url, sql):
    storage = studies.open_storage(url, create=True)
    storage.max_wait_seconds = MAX_WAIT_SECONDS
    sql("DROP SCHEMA public CASCADE")
    error = error_of(lambda: studies.read_definition(storage, NAME))
    assert "tables are missing" in str(error)
    sql("CREATE SCHEMA public")


def test_the_home_of_another_user_is_expanded_or_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert database.parse_url("sqlite:///~/x.db").database == f"{tmp_path}/x.db"
    assert database.parse_url("sqlite:///~root/x.db").database == "/root/x.db"
    assert database.parse_url("sqlite:///./~root/x.db").database == "./~root/x.db"
    message = str(error_of(lambda: database.parse_url("sqlite:///~nosuchuser/x.db")))
    assert message == ("--store: '~nosuchuser' has no home folder; write the path out, or begin it with ./")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///file:a%20b.db?mode=ro&uri=true", "a b.db"),
        ("sqlite:///file:///x/y.db?mode=ro&uri=true", "/x/y.db"),
        ("sqlite:///file://localhost/x/y.db?mode=ro&uri=true", "/x/y.db"),
        ("sqlite:////x/a b.db", "/x/a b.db"),
    ],
)
def test_the_file_of_a_uri_is_the_one_that_sqlite_opens(text, path):
    assert database.sqlite_file(database.parse_url(text)) == Path(path)


# Studies


def another(**changed: object):
    definition = lease_worker.definition(4)
    return definition.model_copy(update={"train": definition.train | {"epochs": 7}, **changed})


def test_a_study_without_an_epoch_is_replaced_by_another_definition(url, with_tables, sql):
    storage = studies.open_storage(with_tables, create=True)
    studies.create_study(storage, lease_worker.definition(3), "first")
    claim = lease_worker.claim_next(storage, studies.find_study_id(storage, NAME))
    claim.release()  # as a worker without the pretrained weights does
    control.set_order(storage, NAME, "paused")
    folder, study_id = studies.artifacts_folder(storage, NAME), studies.find_study_id(storage, NAME)
    fewer = lease_worker.definition(2)
    assert studies.create_study(storage, fewer, "second") == studies.Stored.REPLACED
    assert studies.create_study(storage, another(), "third") == studies.Stored.REPLACED
    assert studies.read_definition(storage, NAME) == another()
    assert (studies.artifacts_folder(storage, NAME), studies.find_study_id(storage, NAME)) == (
        folder,
        study_id,
    )
    assert storage.get_study_system_attrs(study_id)["hpo:file"] == "third"
    assert control.read_order(storage, study_id) is None
    assert sql("SELECT number FROM trials ORDER BY number") == [(0,), (1,), (2,), (3,)]
    for table in ("study_directions", "study_user_attributes", "trial_system_attributes"):
        (count,) = sql(f"SELECT count(*) FROM {table}")[0]
        assert count == {"study_directions": 1, "study_user_attributes": 2}.get(table, 4)


@pytest.mark.parametrize("how", ["claimed", "reported", "saved", "enqueued", "enqueued by Optuna"])
def test_a_study_with_something_to_lose_is_not_replaced(with_tables, how, sql):
    storage = studies.open_storage(with_tables, create=True)
    studies.create_study(storage, lease_worker.definition(3), "first")
    if how in ("claimed", "reported", "saved"):
        claim = lease_worker.claim_next(storage, studies.find_study_id(storage, NAME))
        if how == "reported":
            claim.commit(report=(1, 0.5), user_attributes={"epochs": 1})
            claim.release()
        elif how == "saved":
            claim.commit(checkpoint="a checkpoint within the first epoch")
            claim.release()
    elif how == "enqueued":
        studies.enqueue_setting(storage, NAME, lease_worker.definition(0, {"lr": 0.5}).points[0])
    else:
        optuna.load_study(study_name=NAME, storage=with_tables).enqueue_trial({"lr": 0.5})
    before = sql("SELECT * FROM trials"), sql("SELECT * FROM trial_system_attributes")
    with pytest.raises(Exception, match=r"train.epochs: 3 -> 7"):
        studies.create_study(storage, another(), "second")
    assert (sql("SELECT * FROM trials"), sql("SELECT * FROM trial_system_attributes")) == before


def test_of_racing_creators_and_a_claim_one_definition_wins_whole(with_tables, sql):
    """Several threads replace a study in turns, and another one claims: then nobody replaces it."""
    stores = [studies.open_storage(with_tables, create=True) for _ in range(4)]
    studies.create_study(stores[0], lease_worker.definition(3), "text")
    study_id = studies.find_study_id(stores[0], NAME)
    start, results, claims = threading.Barrier(4), [], []

    def replace(mine, epochs):
        definition = another(train=lease_worker.definition(3).train | {"epochs": epochs})
        start.wait()
        for _ in range(5):
            try:
                results.append((epochs, studies.create_study(mine, definition, "text")))
            except Exception as error:
                results.append((epochs, type(error).__name__))

    def claim(mine):
        start.wait()
        mine.max_wait_seconds = MAX_WAIT_SECONDS
        # A claim skips trials that are locked because they are being replaced.
        while not claims:
            claims.extend(filter(None, [lease_worker.claim_next(mine, study_id)]))

    threads = [threading.Thread(target=replace, args=(store, 10 + n)) for n, store in enumerate(stores[1:])]
    threads.append(threading.Thread(target=claim, args=(stores[0],)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result for _, result in results} <= {*studies.Stored, "DefinitionError"}
    epochs = studies.read_definition(stores[0], NAME).train["epochs"]
    assert epochs in [3, *(n for n, result in results if result == studies.Stored.REPLACED)]
    assert claims[0].number == 0
    assert sql("SELECT count(*) FROM trials") == [(4 if epochs > 9 else 3,)]
    claims[0].end(TrialState.COMPLETE, value=0.5)
    orphans = (
        "SELECT count(*) FROM trial_system_attributes WHERE trial_id NOT IN (SELECT trial_id FROM trials)"
    )
    assert sql(orphans) == [(0,)]


def test_a_worker_that_knows_a_deleted_study_writes_nothing_about_it(with_tables, sql):
    storage = studies.open_storage(with_tables, create=True)
    studies.create_study(storage, lease_worker.definition(1), "text")
    study_id = studies.find_study_id(storage, NAME)
    studies.delete_study(storage, NAME)
    message = str(error_of(lambda: studies.set_attribute_once(storage, study_id, "a", "b", ("b",))))
    assert "deleted" in message
    assert sql("SELECT count(*) FROM study_system_attributes") == [(0,)]


def test_only_a_study_of_hpo_is_retried(with_tables, sql):
    storage = studies.open_storage(with_tables, create=True)
    theirs = optuna.create_study(study_name="theirs", storage=with_tables)
    theirs.tell(theirs.ask(), state=TrialState.FAIL)
    assert "another tool" in str(error_of(lambda: control.retry_trials(storage, "theirs", None)))
    assert sql("SELECT state FROM trials") == [("FAIL",)]


def test_a_warm_start_waits_for_the_store_and_does_not_go_on_without_it(with_tables, monkeypatch):
    storage = studies.open_storage(with_tables, create=True)
    studies.create_study(storage, lease_worker.definition(1), "text")
    new = another(name="new", search=Search(trials=1, start_from=(NAME,)))

    def away(*_: object) -> None:
        raise sa.exc.OperationalError("BEGIN", {}, sqlite3_error(sqlite3.SQLITE_BUSY))

    sa.event.listen(storage.engine, "begin", away)
    for call in (warm_start.read_warm_starts, warm_start.find_warm_starts):
        assert isinstance(error_of(lambda call=call: call(storage, new)), StoreUnavailable)


# What the verbs do


def test_a_study_that_waits_or_is_done_starts_no_worker_and_is_no_error(place):
    file = place.study(STUDY)
    assert place.here("create", file).out == "study small created: 2 trials waiting\n"
    for verb in ("pause", "stop"):
        place.here(verb, "small")
        state = "paused" if verb == "pause" else "stopped"
        for words in (("run", file), ("launch", "small"), ("worker", "small")):
            done = place.here(*words)
            assert messages(done.err) == [f"hpo: study 'small' is {state}; run 'hpo resume small' first"]
            assert done.out == ""
        place.here("resume", "small")
    place.here("worker", "small")
    for words in (("run", file), ("launch", "small"), ("worker", "small")):
        err = place.here(*words).err
        assert messages(err) == ["hpo: study 'small' is complete, all 2 trials have run; nothing to do"]


def test_run_and_launch_exit_with_1_if_not_one_trial_of_a_complete_study_succeeded(place):
    (place.path / "own.py").write_text("def climb(config, state):\n    raise RuntimeError('no')\n")
    file = place.study(STUDY)
    place.here("create", file)
    place.here("worker", "small")
    for words in (("run", file), ("launch", "small")):
        err = place.here(*words, code=1).err
        assert messages(err)[0] == "hpo: study 'small' is complete, but none of its 2 trials succeeded"
    place.here("worker", "small")


def test_create_says_that_it_replaced_a_study(place):
    place.here("create", place.study(STUDY))
    done = place.here("create", place.study(STUDY.replace("high = 1.0", "high = 2.0")))
    assert done.out == "study small replaced: 2 trials waiting\n"
    assert "no trial had run an epoch; it is replaced" in done.err
    place.here("worker", "small")
    refused = place.here("create", place.study(STUDY), code=1)
    assert "is stored with another definition (space.x: 0.0 to 2.0 -> 0.0 to 1.0)" in refused.err
