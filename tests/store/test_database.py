"""Opening a store: URLs, files, servers, tables, roles."""

import contextlib
import sqlite3
import threading
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages._rdb import models

from hpo.store import control, database, status, studies, tables
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.lease_worker import NAME
from tests.support.stored_study import check_refused, make_definition, plain


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
        lambda: studies.open_storage(url, create=False), "no store at", "--store or HPO_STORE names another"
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
        limited = sa.make_url(url).set(username="reader").render_as_string(hide_password=False)
        wanted = ("role 'reader' may not do this: permission denied", "the owner pipes", "--sql grants")
        check_refused(lambda: studies.open_storage(limited, create=False), *wanted)
        sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
        reader = studies.open_storage(limited, create=False)
        assert status.read_status(reader, NAME).trials["waiting"] == 3
        wanted = ("role 'reader' may not do this: permission denied", "; hpo_owner may")
        check_refused(lambda: studies.create_study(reader, make_definition(4), "text"), *wanted)
        check_refused(lambda: studies.delete_study(reader, NAME), *wanted)
        check_refused(lambda: control.check_may_delete(reader), *wanted)
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

    sa.event.listen(tables.leases, "before_create", count_versions)
    try:
        studies.open_storage(url, create=True)
    finally:
        sa.event.remove(tables.leases, "before_create", count_versions)
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
