"""optuna-dashboard on stores of hpo: what hpo adds to its responses, and which changes are possible."""

import base64
import threading
import uuid
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.artifacts.folders import Artifacts
from hpo.cli import orphans
from hpo.dashboard import gate, notes
from hpo.dashboard.app import DashboardApp
from hpo.store import control, fingerprint, process, queue, studies
from hpo.store import rows as store_rows
from hpo.study.file import load_study_file, point_from_texts
from hpo.workers import worker
from tests.support.processes import wait_for
from tests.support.wsgi import HOST, TOKEN, ask, routes

OWN = """
import pathlib


def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        if config.speed == 4 and pathlib.Path("broken").exists():
            raise RuntimeError("no\\n  <b>```such```</b> luck")
        yield config.speed / 100 + epoch / 10, {"epoch": epoch}
"""

STUDY = """# with ```` in it
[train]
objective = "dashboard_app_objective:climb"
epochs = 2

[search]
sampler = "grid"
"""


@pytest.fixture
def artifacts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dashboard_app_objective.py").write_text(OWN)
    (tmp_path / "broken").touch()
    return Artifacts(str(tmp_path / "artifacts"))


def create_and_run(url, artifacts, name, *others):
    """Store a study of three points, with further parameters if given, and run it. The last one fails."""
    text = STUDY
    for n in range(2, 5):
        text += f'[[points]]\nspeed = {n}\nsite = "C_{n}"\n' + "".join(f"{each} = {n}\n" for each in others)
    storage = studies.open_storage(url, create=True)
    studies.create_study(storage, load_study_file(write_study_file(name, text)), text)
    run_study(storage, artifacts, name)
    return storage


def write_study_file(name, text):
    path = Path(f"{name}.toml")
    path.write_text(text)
    return path


def run_study(storage, artifacts, name):
    settings = worker.WorkerSettings(
        artifacts=artifacts, data=Path(), device="cpu", shown_as="cpu", lease_seconds=60
    )
    list(worker.run_worker(storage, name, settings, threading.Event()))


@pytest.fixture
def storage(url, artifacts):
    return create_and_run(url, artifacts, "small")


@pytest.fixture
def read_only_app(url, storage, artifacts):
    """Return the dashboard behind its gate with default settings, on a read-only connection."""
    return behind_gate(url, artifacts, read_only=True)


@pytest.fixture
def read_write_app(url, storage, artifacts):
    """Return the dashboard behind its gate with --read-write."""
    return behind_gate(url, artifacts, read_only=False)


def behind_gate(url, artifacts, *, read_only):
    inner = DashboardApp(studies.open_storage(url, create=False, read_only=read_only), artifacts)
    return gate.Gate(inner, token=TOKEN, origin=f"http://{HOST}", read_only=read_only)


@pytest.fixture
def rows(sql, url):
    """Return a function that returns every row of every table."""
    tables = sa.inspect(sa.create_engine(url, poolclass=sa.NullPool))
    names = sorted(tables.get_table_names())
    assert "hpo_leases" in names
    return lambda: {name: sorted(map(repr, sql(f"SELECT * FROM {name}"))) for name in names}


def detail(app, study=1):
    answer = ask(app, "GET", f"/api/studies/{study}")
    assert answer.status == 200
    return answer.json()


MUTATIONS = {
    "create": ("POST", "/api/studies", {"study_name": "new", "directions": ["maximize"]}),
    "rename": ("POST", "/api/studies/1/rename", {"study_name": "other"}),
    "delete": ("DELETE", "/api/studies/1", {}),
    "study note": ("PUT", "/api/studies/1/note", {"version": 1, "body": "mine"}),
    "trial note": ("PUT", "/api/studies/1/1/note", {"version": 1, "body": "mine"}),
    "tell": ("POST", "/api/trials/4/tell", {"state": "Complete", "values": [1.0]}),
    "attributes": ("POST", "/api/trials/4/user-attrs", {"user_attrs": {"checked": "yes"}}),
    "preference": (
        "POST",
        "/api/studies/1/preference",
        {"mode": "ChooseWorst", "candidates": [0, 1], "clicked": 0},
    ),
    "preference component": (
        "PUT",
        "/api/studies/1/preference_feedback_component",
        {"output_type": "note"},
    ),
    "trial artifact": (
        "POST",
        "/api/artifacts/1/4",
        {"file": f"data:text/html;base64,{base64.b64encode(b'<script>').decode()}", "filename": "a.html"},
    ),
    "study artifact": (
        "POST",
        "/api/artifacts/1",
        {"file": f"data:text/html;base64,{base64.b64encode(b'<script>').decode()}", "filename": "a.html"},
    ),
    "schema upgrade": ("POST", "/incompatible-rdb-schema", {}),
}


@pytest.fixture
def waiting(storage):
    """Enqueue a trial, number 3 with id 4, that no worker has claimed."""
    studies.enqueue_setting(
        storage, "small", point_from_texts(studies.read_definition(storage, "small"), ["speed=9"])
    )
    (trial,) = storage.get_all_trials(1, states=(TrialState.WAITING,))
    assert (trial.number, trial._trial_id) == (3, 4)


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


def test_notes_show_the_definition_of_a_study_and_the_outcome_of_a_trial(read_only_app, rows):
    before, found = rows(), detail(read_only_app)
    assert found["objective_names"] == ["accuracy"]
    assert found["note"]["version"] == 0
    assert found["note"]["body"].count("`````") == 2, "the text contains no fence of this length"
    assert STUDY in found["note"]["body"]
    first, _, failed = (trial["note"]["body"] for trial in found["trials"])
    assert first.startswith("**complete**: accuracy 0.2200 after epoch 2 of 2, as the study's own")
    assert "point 1 of the study file, site C\\_2" in first
    assert "attempts: 1" in first
    assert "weights-0002-001.pt" in first
    assert failed.startswith("**failed**")
    assert "RuntimeError" in failed
    assert "````\nno\n  <b>```such```</b> luck\n````" in failed
    (best,) = found["best_trials"]
    assert "**complete**: accuracy 0.2300" in best["note"]["body"]
    assert rows() == before


def test_a_note_written_by_a_user_is_kept(url, storage, read_only_app):
    study = optuna.load_study(study_name="small", storage=url)
    optuna_dashboard.save_note(study, "my study")
    optuna_dashboard.save_note(optuna.Trial(study, 2), "")
    found = detail(read_only_app)
    assert found["note"]["body"] == "my study"
    bodies = [trial["note"]["body"] for trial in found["trials"]]
    assert bodies[1] == "", "emptied by a user"
    assert "**complete**" in bodies[0]


def test_a_trial_lists_its_files_and_serves_them_as_downloads(read_only_app, artifacts):
    first, _, failed = detail(read_only_app)["trials"]
    names = [file["filename"] for file in first["artifacts"]]
    assert names == ["settings.json", "epochs.csv", "weights-0002-001.pt"]
    assert [file["filename"] for file in failed["artifacts"]] == ["settings.json", "traceback.txt"]
    kinds = {file["filename"]: file["mimetype"] for file in first["artifacts"] + failed["artifacts"]}
    assert (kinds["epochs.csv"], kinds["traceback.txt"]) == ("text/csv", "text/plain")
    folder = next(Path("artifacts").glob("small-*"))
    for trial in (first, failed):
        for file in trial["artifacts"]:
            where = f"/artifacts/1/{trial['trial_id']}/{file['artifact_id']}"
            answer = ask(read_only_app, "GET", where)
            assert answer.body == (folder / f"{trial['number']:04d}" / file["filename"]).read_bytes()
            assert answer.headers["content-disposition"] == f'attachment; filename="{file["filename"]}"'
            assert "sandbox" in answer.headers["content-security-policy"]
            assert "access-control-allow-origin" not in answer.headers


def test_a_missing_file_or_one_of_another_trial_is_not_found(read_only_app, capfd):
    first, second, _ = detail(read_only_app)["trials"]
    file = first["artifacts"][1]["artifact_id"]
    assert ask(read_only_app, "GET", f"/artifacts/1/{second['trial_id']}/{file}").status == 404, (
        "a file of another trial"
    )
    assert ask(read_only_app, "GET", f"/artifacts/2/1/{file}").status == 404
    assert ask(read_only_app, "GET", f"/artifacts/1/99/{file}").status == 404
    assert ask(read_only_app, "GET", f"/artifacts/1/{file}").status == 404
    next(Path("artifacts").glob("small-*/0000/epochs.csv")).unlink()
    assert ask(read_only_app, "GET", f"/artifacts/1/{first['trial_id']}/{file}").status == 404
    assert "Traceback" not in capfd.readouterr().err


def test_an_uploaded_artifact_is_sandboxed_and_without_its_file_is_not_found(
    read_write_app, storage, waiting, artifacts
):
    uploaded = ask(read_write_app, *MUTATIONS["trial artifact"]).json()["artifact_id"]
    answer = ask(read_write_app, "GET", f"/artifacts/1/4/{uploaded}")
    assert (answer.body, answer.headers["content-type"]) == (b"<script>", "text/html")
    assert answer.headers["content-disposition"] == "attachment"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
    (waiting_trial,) = detail(read_write_app)["trials"][3:]
    assert [file["filename"] for file in waiting_trial["artifacts"]] == ["a.html"]
    assert orphans.unknown_folders(artifacts, [studies.artifacts_folder(storage, "small")]) == [], (
        "it is not orphaned"
    )
    Path("artifacts", "added", uploaded).unlink()
    assert ask(read_write_app, "GET", f"/artifacts/1/4/{uploaded}").status == 404
    assert ask(read_write_app, "DELETE", f"/api/artifacts/1/4/{uploaded}").status == 404
    again = ask(read_write_app, *MUTATIONS["study artifact"]).json()["artifact_id"]
    assert ask(read_write_app, "GET", f"/artifacts/1/{again}").body == b"<script>"
    assert ask(read_write_app, "DELETE", f"/api/artifacts/1/{again}").status == 204
    assert not Path("artifacts", "added", again).exists()


def test_artifacts_in_a_remote_folder_are_served(url, tmp_path, monkeypatch, artifacts):
    remote = Artifacts(f"memory://dashboard-{tmp_path.name}-{url[:4]}")
    create_and_run(url, remote, "small")
    app = behind_gate(url, remote, read_only=True)
    first = detail(app)["trials"][0]
    table = ask(app, "GET", f"/artifacts/1/1/{first['artifacts'][1]['artifact_id']}")
    assert table.body.startswith(b"epoch,")


def test_a_retried_trial_is_shown_in_its_current_state(read_only_app, storage, artifacts):
    states = [trial["state"] for trial in detail(read_only_app)["trials"]]
    assert states == ["Complete", "Complete", "Fail"]
    Path("broken").unlink()
    control.retry_trials(storage, "small", None)
    assert detail(read_only_app)["trials"][2]["state"] == "Waiting"
    run_study(storage, artifacts, "small")
    # The dashboard reads the store again every two seconds.
    wait_for(lambda: detail(read_only_app)["trials"][2]["state"] == "Complete")
    assert "attempts: 2" in detail(read_only_app)["trials"][2]["note"]["body"]


def test_what_a_request_checks_does_not_grow_with_the_trials(storage, url, rows):
    before = fingerprint.read_fingerprints(storage)
    study = optuna.load_study(study_name="small", storage=url)
    for n in range(3):
        study.add_trial(optuna.trial.create_trial(value=n / 10))
    assert fingerprint.read_fingerprints(storage) == before
    assert [len(each) for each in before.values()] == [6]
    control.retry_trials(storage, "small", None)
    assert fingerprint.read_fingerprints(storage) != before


def test_a_study_created_after_a_deleted_one_is_shown_as_itself(read_only_app, storage, artifacts, url):
    detail(read_only_app)
    assert ask(read_only_app, "GET", "/api/studies/1/param_importances").status == 200
    studies.delete_study(storage, "small")
    assert ask(read_only_app, "GET", "/api/studies").json() == {"study_summaries": []}
    create_and_run(url, artifacts, "other", "width")
    (study,) = ask(read_only_app, "GET", "/api/studies").json()["study_summaries"]
    found = detail(read_only_app, study["study_id"])
    assert found["name"] == "other"
    assert {each["name"] for each in found["union_search_space"]} == {"speed", "width"}
    where = f"/api/studies/{study['study_id']}"
    (shares,) = ask(read_only_app, "GET", f"{where}/param_importances").json()["param_importances"]
    assert {each["name"] for each in shares} == {"speed", "width"}
    assert ask(read_only_app, "GET", f"{where}/plot/slice").status == 200


def test_importance_equals_that_of_plain_optuna(read_only_app, url):
    (shares,) = ask(read_only_app, "GET", "/api/studies/1/param_importances").json()["param_importances"]
    study = optuna.load_study(study_name="small", storage=url)
    plain = optuna.importance.get_param_importances(study)
    assert {each["name"]: each["importance"] for each in shares} == pytest.approx(plain)


def test_a_study_of_another_tool_is_shown_without_notes(url, storage, read_only_app):
    study = optuna.create_study(study_name="plain", storage=url)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    found = detail(read_only_app, study._study_id)
    assert found["note"]["body"] == ""
    assert [trial["note"]["body"] for trial in found["trials"]] == ["", ""]
    assert found["trials"][0]["artifacts"] == []


def test_the_note_of_a_waiting_or_running_trial_states_its_progress(storage, waiting):
    definition = studies.read_definition(storage, "small")
    trial = storage.get_trial(4)
    assert notes.trial_note(trial, definition).startswith("**waiting**\n")
    assert "queued by hand" in notes.trial_note(trial, definition)
    trial.intermediate_values = {1: 0.5, 2: 0.5}
    assert "**waiting**, continues after epoch 2" in notes.trial_note(trial, definition)
    trial.state = TrialState.RUNNING
    assert "**running** after epoch 2" in notes.trial_note(trial, definition)
    trial.state = TrialState.PRUNED
    trial.set_user_attr("pruned", "loss is nan at epoch 2, step 3")
    assert "**pruned** loss is nan at epoch 2, step 3" in notes.trial_note(trial, definition)


def set_attributes(url, study_id=1, trial=None, system=False, **given):
    """Write attributes as any other tool may."""
    storage = studies.open_storage(url, create=False)
    for key, value in given.items():
        if trial is None:
            storage.set_study_user_attr(study_id, key, value)
        else:
            models = storage.get_all_trials(study_id)
            with storage.transaction() as session:
                store_rows.write_attributes(session, models[trial]._trial_id, {key: value}, system=system)


@pytest.mark.parametrize("name", ["../../../../../../../../etc/hostname", "/etc/hostname", "victim", 5])
def test_only_files_below_the_trials_own_folder_are_served(read_only_app, storage, artifacts, url, name):
    (Path(artifacts.root) / "victim").write_text("secret")
    set_attributes(url, trial=0, weights=name)
    shown = detail(read_only_app)["trials"][0]
    names = [each["filename"] for each in shown["artifacts"]]
    assert names == ["settings.json", "epochs.csv"]
    wanted = uuid.uuid5(uuid.NAMESPACE_URL, str(name))
    assert ask(read_only_app, "GET", f"/artifacts/1/{shown['trial_id']}/{wanted}").status == 404


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


MALFORMED = [
    ("artifacts:0a-1b", 5),
    ("artifacts:0a-1b", "{"),
    ("artifacts:0a-1b", '{"artifact_id": "../../victim", "filename": "x", "mimetype": "a/b"}'),
    (
        "artifacts:0a-1b",
        '{"artifact_id": "0a-1b", "filename": "x", "mimetype": "a\\nb: c", "encoding": null}',
    ),
    ("dashboard:note_ver", "x"),
    ("dashboard:note_ver", 10**30),
    ("dashboard:note_str:7", "x"),
    ("dashboard:plot_data:x:1", "x"),
    ("study:metric_names", "accuracy"),
    ("preference:is_preferential", True),
    ("constraints", ["x"]),
    ("fixed_params", [1]),
]


def test_attributes_that_the_dashboard_cannot_show_read_as_absent(read_only_app, storage, url, capfd):
    """Of the study and of a trial; both are written by another tool."""
    before = detail(read_only_app)
    for key, value in [*MALFORMED, ("dashboard:note_ver", 1)]:
        storage.set_study_system_attr(1, key, value)
        set_attributes(url, trial=0, system=True, **{key: value})
    app = behind_gate(url, Artifacts("artifacts"), read_only=True)
    for path in ("/api/studies", "/api/studies/1/plot/slice", "/csv/1", "/artifacts/1/0a-1b"):
        assert ask(app, "GET", path).status in (200, 404), path
    found = detail(app)
    assert found["note"] == {"version": 1, "body": ""}
    assert found["trials"][1:] == before["trials"][1:]
    assert found["trials"][0]["artifacts"] == before["trials"][0]["artifacts"]
    assert "Traceback" not in capfd.readouterr().err


def test_an_attribute_that_is_not_json_is_answered_with_a_reason(read_only_app, sql, capfd):
    sql("UPDATE trial_user_attributes SET value_json = '{' WHERE key = 'epochs'")
    for path in ("/api/studies/1", "/api/studies/1/plot/slice", "/api/studies/1/param_importances"):
        answer = ask(read_only_app, "GET", path)
        assert (answer.status, "is not JSON" in answer.json()["reason"]) == (503, True), path
    assert "Traceback" not in capfd.readouterr().err


def attach(app, body):
    return ask(app, "POST", "/api/artifacts/1/4", body).json()["artifact_id"]


def test_attached_files_are_removed_only_with_the_study_that_has_them(
    read_write_app, storage, waiting, artifacts, url
):
    body = MUTATIONS["trial artifact"][2]
    first, second = attach(read_write_app, body), attach(read_write_app, body)
    optuna.copy_study(from_study_name="small", from_storage=url, to_storage=url, to_study_name="copy")
    assert ask(read_write_app, "DELETE", f"/api/artifacts/1/1/{'0' * 8}").status == 404
    assert ask(read_write_app, "DELETE", f"/api/artifacts/1/4/{first}").status == 409, (
        "the copy has it, too"
    )
    assert ask(read_write_app, "DELETE", "/api/studies/2", {}).status == 204
    assert {path.name for path in Path("artifacts/added").iterdir()} == {first, second}
    run_study(storage, artifacts, "small")
    assert ask(read_write_app, "DELETE", f"/api/artifacts/1/4/{first}").status == 204, "the trial has ended"
    assert first not in str(detail(read_write_app)["trials"][3]["artifacts"])
    assert ask(read_write_app, "DELETE", "/api/studies/1", {}).status == 204
    assert not list(Path("artifacts/added").iterdir())


def test_a_trial_of_which_only_the_images_are_known_is_shown(read_only_app, url):
    set_attributes(url, trial=0, images=100)
    app = behind_gate(url, Artifacts("artifacts"), read_only=True)
    assert "accuracy is of 100 images\n" in detail(app)["trials"][0]["note"]["body"]
