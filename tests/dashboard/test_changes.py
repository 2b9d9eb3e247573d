"""Which changes the dashboard makes, with and without ``--read-write``, and which it refuses."""

from pathlib import Path

import optuna
import pytest

from hpo.store import process, queue, studies
from tests.support.dashboard_study import MUTATIONS, detail, set_attributes
from tests.support.wsgi import ask, routes


def test_no_mutation_passes_the_gate_or_the_read_only_connection(
    url, read_only_app, waiting, rows, artifacts
):
    before, below = rows(), read_only_app.app
    files = sorted(Path("artifacts").rglob("*"))
    for name, (method, path, body) in MUTATIONS.items():
        assert ask(read_only_app, method, path, body).status == 405, name
        answer = ask(below, method, path, body, HTTP_ACCEPT_ENCODING="gzip")
        assert answer.status >= 400 or name == "schema upgrade", (name, answer)
        assert rows() == before, name
        assert sorted(Path("artifacts").rglob("*")) == files, name


def test_read_requests_change_nothing_even_with_read_write(read_write_app, waiting, rows):
    before = rows()
    requests = [(method, path) for method, path in routes() if method == "GET"]
    assert len(requests) == 13
    for method, path in requests:
        assert ask(read_write_app, method, path).status < 500, path
        assert rows() == before, path


ALLOWED_MUTATIONS = {
    "delete": 204,
    "study note": 204,
    "trial note": 204,
    "trial artifact": 201,
    "study artifact": 201,
}


def test_with_read_write_only_what_the_documents_name_is_changed(read_write_app, waiting, rows):
    statuses = {}
    for name in sorted(MUTATIONS, key="delete".__eq__):  # the deletion last
        method, path, body = MUTATIONS[name]
        before = rows()
        answer = ask(read_write_app, method, path, body)
        statuses[name] = answer.status
        assert (rows() != before) == (name in ALLOWED_MUTATIONS), name
        if name not in ALLOWED_MUTATIONS:
            assert "it changes nothing else" in answer.json()["reason"], name
        if name == "study note":
            assert detail(read_write_app)["note"] == {"version": 1, "body": "mine"}
    assert statuses == dict.fromkeys(MUTATIONS, 403) | ALLOWED_MUTATIONS


def test_with_read_write_no_route_is_open_that_is_not_tested(read_write_app, waiting, rows):
    before, allowed = rows(), []
    for method, path in routes():
        if method != "GET":
            answer = ask(read_write_app, method, path, {"unknown": 1})
            assert answer.status in (400, 403), path
            allowed += [(method, path)] * (answer.status == 400)
    assert rows() == before
    assert sorted(allowed) == [
        ("DELETE", "/api/artifacts/1/0a-1b"),
        ("DELETE", "/api/artifacts/1/1/0a-1b"),
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/artifacts/1"),
        ("POST", "/api/artifacts/1/1"),
        ("PUT", "/api/studies/1/1/note"),
        ("PUT", "/api/studies/1/note"),
    ]


NOTE = "/api/studies/1/4/note"
FILE = "/api/artifacts/1/4"

WRONG_CHANGES = [
    ("PUT", NOTE, {"version": "1", "body": "mine"}, 400, "version: Input should be a valid integer"),
    ("PUT", NOTE, {"version": 10**400, "body": "mine"}, 400, "version: Input should be less than"),
    ("PUT", NOTE, {"version": 1, "body": {}}, 400, "body: Input should be a valid string"),
    ("PUT", NOTE, {"version": 1, "body": "mine", "state": "Fail"}, 400, "state: Extra inputs"),
    ("PUT", NOTE, [], 400, "request: Input should be a valid dictionary"),
    ("PUT", NOTE, None, 400, "version: Field required; body: Field required"),
    ("PUT", "/api/studies/1/5/note", {"version": 1, "body": "mine"}, 404, "no such study or trial"),
    ("PUT", "/api/studies/2/note", {"version": 1, "body": "mine"}, 404, "no such study or trial"),
    (
        "PUT",
        f"/api/studies/{10**30}/note",
        {"version": 1, "body": "mine"},
        404,
        "no such study or trial",
    ),
    ("GET", f"/api/studies/{10**30}", None, 404, "no such study or trial"),
    ("GET", "/api/studies/2/plot/slice", None, 404, "no such study or trial"),
    ("POST", FILE, {"file": "data:,x", "filename": 1}, 400, "filename: Input should be a valid string"),
    (
        "POST",
        FILE,
        {"file": "data:;base64,eA", "filename": "x"},
        400,
        "file: Value error, Incorrect padding",
    ),
    ("POST", FILE, {"file": "https://evil.example/x"}, 400, "file: Value error"),
    (
        "DELETE",
        "/api/studies/1",
        {"remove_associated_artifacts": "no"},
        400,
        "should be a valid boolean",
    ),
]


def test_a_change_with_a_wrong_field_or_place_is_refused_in_one_line(read_write_app, waiting, rows, capfd):
    before = rows()
    for method, path, body, status, reason in WRONG_CHANGES:
        answer = ask(read_write_app, method, path, body)
        assert answer.status == status, (path, body)
        assert reason in answer.json()["reason"]
        assert rows() == before
    assert "Traceback" not in capfd.readouterr().err


def test_deleting_a_study_deletes_its_files_and_is_refused_while_workers_run(
    read_write_app, storage, waiting
):
    folder = Path("artifacts", studies.artifacts_folder(storage, "small"))
    claim = queue.claim_trial(storage, 1, process.current_owner("cpu"), lease_seconds=60, max_attempts=3)
    refused = ask(read_write_app, "DELETE", "/api/studies/1", {})
    assert (refused.status, "workers" in refused.json()["reason"]) == (409, True)
    claim.release()
    assert folder.exists()
    assert ask(read_write_app, "DELETE", "/api/studies/1", {}).status == 204
    assert not folder.exists()
    assert ask(read_write_app, "GET", "/api/studies").json() == {"study_summaries": []}


@pytest.mark.parametrize("folder", ["", "..", "../victim", 7])
def test_deleting_a_study_with_a_changed_folder_deletes_no_files(
    read_write_app, storage, artifacts, url, folder
):
    before = sorted(Path(artifacts.root).rglob("*"))
    assert before
    set_attributes(url, folder=folder)
    assert detail(read_write_app)["trials"][0]["artifacts"] == []
    assert ask(read_write_app, "DELETE", "/api/studies/1", {}).status == 204
    assert sorted(Path(artifacts.root).rglob("*")) == before


def test_deleting_a_copy_keeps_the_files_of_the_original(read_write_app, storage, artifacts, url):
    before = sorted(Path(artifacts.root).rglob("*"))
    optuna.copy_study(from_study_name="small", from_storage=url, to_storage=url, to_study_name="copy")
    assert ask(read_write_app, "DELETE", "/api/studies/2", {}).status == 204
    assert sorted(Path(artifacts.root).rglob("*")) == before
