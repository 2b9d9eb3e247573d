"""Postgres as storage/README.md describes it: three roles with their rights, backup, restore and TLS."""

import contextlib
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import optuna
import psycopg
import pytest
import sqlalchemy as sa
import trustme

from hpo.errors import StoreError
from hpo.store import studies, study_images, tables
from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.processes import wait_for
from tests.support.workplace import HPO, Done

OWN = """
import time


def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        time.sleep(0.1)
        yield config.speed / 100 * epoch, {"epoch": epoch}
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 3

[space]
speed = { low = 1.0, high = 10.0 }

[search]
trials = 4
sampler = "qmc"
pruner = { name = "asha", min_epochs = 1 }

[[points]]
speed = 2.5

[[points]]
speed = 7.5
"""

REFUSED = r"permission denied|must be owner|read-only|row-level security"
PASSWORD = "s{e}c%r@t/:#?"


@pytest.fixture
def place(workplace):
    (workplace.path / "own.py").write_text(OWN)
    workplace.study(STUDY)
    return workplace


@pytest.fixture(scope="module")
def roles() -> Iterator[dict[str, str]]:
    """Yield the URLs of a new store by role."""
    with postgres.running(password=PASSWORD) as server:
        admin = sa.make_url(server.url).set(password=PASSWORD)
        text = admin.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(text, autocommit=True) as connection:
            connection.execute("CREATE DATABASE hpo")
        admin = admin.set(database="hpo")
        run_sql(admin, "roles")
        urls = {}
        with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as connection:
            for role in ("hpo_owner", "hpo_worker", "hpo_viewer"):
                literal = psycopg.sql.Literal(PASSWORD)
                connection.execute(psycopg.sql.SQL(f"ALTER ROLE {role} PASSWORD {{}}").format(literal))
                urls[role] = admin.set(username=role).render_as_string(hide_password=False)
        yield urls


@functools.cache
def printed_sql(what: str) -> str:
    """Return what ``hpo doctor --sql`` prints."""
    command = [*HPO, "doctor", "--sql", what]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run_sql(url: sa.URL, what: str) -> None:
    """Run what ``hpo doctor --sql`` prints."""
    tool("psql", url, "-v", "ON_ERROR_STOP=1", "-q", input=printed_sql(what))


def tool(name: str, url: sa.URL, *words: str, input: str | None = None) -> None:
    """Run a tool of Postgres on a database, as storage/README.md describes."""
    where = ["-h", str(url.host), "-p", str(url.port), "-U", str(url.username), "-d", str(url.database)]
    command = [str(postgres.binaries() / name), *where, *words]
    environment = {**os.environ, "PGPASSWORD": str(url.password or "")}
    done = subprocess.run(
        command, env=environment, input=input, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def store_urls(place, roles) -> Iterator[dict[str, str]]:
    place.here("create", "small.toml", HPO_STORE=roles["hpo_owner"])
    run_sql(sa.make_url(roles["hpo_owner"]), "grants")
    with closed_engines():
        yield roles


def refused(place, *words: str, url: str) -> None:
    done = place.here(*words, code=1, HPO_STORE=url)
    assert done.err.count("\n") == 1
    assert re.search(REFUSED, done.err)


def test_each_role_has_only_its_rights_and_no_output_contains_the_password(place, store_urls):
    owner, worker, viewer = (store_urls[f"hpo_{role}"] for role in ("owner", "worker", "viewer"))
    refused(place, "create", "small.toml", "--name", "other", url=worker)
    refused(place, "enqueue", "small", "speed=2.0", url=worker)
    refused(place, "delete", "small", url=worker)  # before it asks
    refused(place, "pause", "small", url=worker)
    for words in (["worker", "small"], ["launch", "small", "--devices", "cpu:1"]):
        told = place.hpo(*words, code=78, HPO_STORE=viewer).err
        assert re.search(r"role 'hpo_viewer' may not .* read-only transaction; hpo_worker may", told)
    refused(place, "pause", "small", url=viewer)
    launcher = place.start("launch", "small", "--devices", "cpu:2", HPO_STORE=worker)
    wait_for(lambda: len(command_lines("worker")) >= 2)
    lines = "\n".join(command_lines(""))
    out, err = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, err
    outputs = [
        place.here(verb, "small", HPO_STORE=viewer) for verb in ("status", "trials", "best", "importance")
    ]
    assert "small is complete" in outputs[0].out
    study = optuna.load_study(study_name="small", storage=viewer)
    assert len(study.trials) == 6
    assert all(trial.state.is_finished() for trial in study.trials)
    for url in (worker, viewer):
        for statement in (
            "DELETE FROM trials",
            "DELETE FROM hpo_leases",
            "DROP TABLE trials",
            "CREATE TABLE more (n int)",
            "UPDATE studies SET study_name = 'stolen'",
            "UPDATE study_system_attributes SET value_json = '{}' WHERE key = 'hpo:definition'",
            "INSERT INTO studies (study_name) VALUES ('more')",
            "INSERT INTO trials (number, state) VALUES (99, 'WAITING')",
        ):
            with pytest.raises(sa.exc.DBAPIError, match=REFUSED):
                plain_sql(url)(statement)
    broken = sa.make_url(owner).set(password="no").render_as_string(hide_password=False)
    failed = place.here("status", "small", code=1, HPO_STORE=owner.replace("/hpo", "/no"))
    failed_login = place.here("status", "small", code=1, HPO_STORE=broken)
    everything = [lines, out, err, failed.out + failed.err, failed_login.err]
    everything += [done.out + done.err for done in outputs]
    everything += [str(row) for row in rows(owner)]
    everything += [file.read_bytes().decode("latin-1") for file in files(place.path)]
    quoted = sa.make_url(owner).render_as_string(hide_password=False).split(":")[2].rpartition("@")[0]
    assert quoted != PASSWORD
    for text in everything:
        assert PASSWORD not in text
        assert quoted not in text
    place.here("delete", "small", "--yes", HPO_STORE=owner)
    assert rows(owner) == []


def test_a_worker_that_may_not_upgrade_an_older_store_says_who_may(store_urls):
    change = plain_sql(store_urls["hpo_owner"])
    change("ALTER TABLE hpo_leases DROP COLUMN reported")
    for table in ("hpo_attempts", "hpo_events", "hpo_workers", "hpo_rung_losses", "hpo_schema"):
        change(f"DROP TABLE {table}")
    worker = studies.open_storage(store_urls["hpo_worker"], create=False)
    with pytest.raises(StoreError, match=r"denied.* have version 1.* let their owner .*--sql grants"):
        tables.upgrade_store(worker)
    tables.upgrade_store(studies.open_storage(store_urls["hpo_owner"], create=False))
    run_sql(sa.make_url(store_urls["hpo_owner"]), "grants")
    tables.upgrade_store(worker)


def test_a_worker_stores_which_images_a_study_has_but_never_replaces_them(store_urls):
    storage = studies.open_storage(store_urls["hpo_worker"], create=False)
    definition = studies.read_definition(storage, "small")
    first, second = (f"30 images, blake2b {digit * 32}" for digit in "01")
    for fingerprint in (first, second):
        assert study_images.set_images_once(storage, definition, fingerprint).fingerprint == first
    with pytest.raises(sa.exc.DBAPIError, match=REFUSED):
        plain_sql(store_urls["hpo_worker"])(
            "UPDATE study_system_attributes SET value_json = '{}' WHERE key = 'hpo:images'"
        )


def command_lines(word: str) -> list[str]:
    """Return the command lines of hpo's processes that contain a word, as every user can see them."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode("latin-1"))
    return [line for line in lines if "-m hpo" in line and word in line]


def rows(url: str) -> list[tuple]:
    """Return all rows of the tables that studies fill."""
    sql = plain_sql(url)
    tables = [name for (name,) in sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    versions = ("alembic_version", "version_info", "hpo_schema")
    return [row for name in tables for row in sql(f"SELECT * FROM {name}") if name not in versions]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_paused_study_resumes_from_its_backup(place, cluster):
    with postgres.database(cluster) as url, postgres.database(cluster) as other, closed_engines():
        place.here("create", "small.toml", "--set", "train.epochs=20", HPO_STORE=url)
        launcher = place.start("launch", "small", "--devices", "cpu:2", HPO_STORE=url)
        sql = plain_sql(url)
        wait_for(lambda: sql("SELECT count(*) FROM trial_intermediate_values")[0][0] > 3)
        place.here("pause", "small", HPO_STORE=url)
        wait_for(lambda: sql("SELECT count(*) FROM hpo_leases WHERE owner IS NOT NULL") == [(0,)])
        tool("pg_dump", sa.make_url(url), "-Fc", "-f", str(place.path / "hpo.dump"))
        shutil.copytree(place.path / "storage/artifacts", place.path / "backup")
        place.here("stop", "small", HPO_STORE=url)
        assert launcher.wait(30) == 0
        launcher.communicate()
        tool("pg_restore", sa.make_url(other), str(place.path / "hpo.dump"))
        settings = {"HPO_STORE": other, "HPO_ARTIFACTS": str(place.path / "backup")}
        place.here("resume", "small", **settings)
        done = place.here("worker", "small", **settings)
        assert "continues after epoch" in done.err
        trials = optuna.load_study(study_name="small", storage=other).trials
        assert all(trial.state.is_finished() for trial in trials)
        for trial in trials:
            assert sorted(trial.intermediate_values) == list(range(1, trial.user_attrs["epochs"] + 1))


def test_tls_follows_the_sslmode_of_the_url(place):
    authority, other = trustme.CA(), trustme.CA()
    for name, each in (("ca.pem", authority), ("other.pem", other)):
        each.cert_pem.write_to_path(place.path / name)
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    with postgres.running(password="odd", certificate=certificate) as server:
        settings = {"PGPASSWORD": "odd"}

        def status(query: str, code: int) -> Done:
            return place.here("status", "small", code=code, HPO_STORE=f"{server.url}?{query}", **settings)

        url = f"{server.url}?sslmode=verify-full&sslrootcert=ca.pem"
        place.hpo("run", "small.toml", "--devices", "cpu:1", HPO_STORE=url, **settings)
        assert "small is complete" in status("sslmode=verify-full&sslrootcert=ca.pem", 0).out
        assert "small is complete" in status("sslmode=require", 0).out
        for query, why in (
            ("sslmode=disable", "no encryption"),
            ("sslmode=verify-full&sslrootcert=other.pem", "certificate verify failed"),
            ("sslmode=verify-full&sslrootcert=absent.pem", "absent.pem"),
        ):
            refused = status(query, 1)
            assert refused.err.count("\n") == 1
            assert why in refused.err
