"""optuna-dashboard on our stores: what we add to its answers, what may change and what may not."""

import base64
import threading
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from hpo.artifacts.folders import Artifacts
from hpo.cli import orphans
from hpo.dashboard import app as exhibit
from hpo.dashboard import gate, notes
from hpo.store import control, process, queue, studies
from hpo.study import file as studyfile
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
objective = "climbing_exhibited:climb"
epochs = 2

[search]
sampler = "grid"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "climbing_exhibited.py").write_text(OWN)
    (tmp_path / "broken").touch()
    return Artifacts(str(tmp_path / "artifacts"))


def made(url, place, name, *others):
    """Store a study of three points, perhaps with other parameters, whose last fails; run it."""
    text = STUDY
    for n in range(2, 5):
        text += f'[[points]]\nspeed = {n}\nsite = "C_{n}"\n' + "".join(f"{each} = {n}\n" for each in others)
    opened = studies.open_storage(url, create=True)
    studies.create_study(opened, studyfile.load_study_file(_file(name, text)), text)
    run(opened, place, name)
    return opened


def _file(name, text):
    path = Path(f"{name}.toml")
    path.write_text(text)
    return path


def run(opened, place, name):
    settings = worker.WorkerSettings(
        artifacts=place, data=Path(), device="cpu", shown_as="cpu", lease_seconds=60
    )
    list(worker.run_worker(opened, name, settings, threading.Event()))


@pytest.fixture
def opened(url, place):
    return made(url, place, "small")


@pytest.fixture
def shown(url, opened, place):
    """Give the dashboard behind its gate as it is by default: on a connection that only reads."""
    return behind_gate(url, place, read_only=True)


@pytest.fixture
def open_(url, opened, place):
    """Give the dashboard that may change things, behind its gate."""
    return behind_gate(url, place, read_only=False)


def behind_gate(url, place, *, read_only):
    inner = exhibit.DashboardApp(studies.open_storage(url, create=False, read_only=read_only), place)
    return gate.Gate(inner, token=TOKEN, origin=f"http://{HOST}", read_only=read_only)


@pytest.fixture
def rows(sql, url):
    """Give a function that gives every row of every table."""
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
def waiting(opened):
    """Queue a trial, number 3 with id 4, that nobody has begun."""
    studies.enqueue_setting(
        opened, "small", studyfile.point_from_texts(studies.read_definition(opened, "small"), ["speed=9"])
    )
    (trial,) = opened.get_all_trials(1, states=(TrialState.WAITING,))
    assert (trial.number, trial._trial_id) == (3, 4)


def test_no_mutation_passes_the_gate_and_none_the_connection_below_it(url, shown, waiting, rows, place):
    before, below = rows(), shown.app
    files = sorted(Path("artifacts").rglob("*"))
    for name, (method, path, body) in MUTATIONS.items():
        assert ask(shown, method, path, body).status == 405, name
        answer = ask(below, method, path, body, HTTP_ACCEPT_ENCODING="gzip")
        assert answer.status >= 400 or name == "schema upgrade", (name, answer)
        assert rows() == before, name
        assert sorted(Path("artifacts").rglob("*")) == files, name


def test_read_requests_change_nothing_even_with_read_write(open_, waiting, rows):
    before = rows()
    looked = [(method, path) for method, path in routes() if method == "GET"]
    assert len(looked) == 13
    for method, path in looked:
        assert ask(open_, method, path).status < 500, path
        assert rows() == before, path


def test_with_read_write_every_mutation_that_makes_sense_is_made(open_, opened, waiting, rows, url):
    statuses = {}
    for name, (method, path, body) in MUTATIONS.items():
        if name not in ("delete", "tell"):
            before = rows()
            statuses[name] = ask(open_, method, path, body).status
            assert (rows() == before) == (name in ("rename", "schema upgrade")), name
    assert statuses == {
        "create": 201,
        "rename": 409,  # it would lose the definition
        "study note": 204,
        "trial note": 204,
        "attributes": 204,
        "preference": 204,
        "preference component": 204,
        "trial artifact": 201,
        "study artifact": 201,
        "schema upgrade": 302,  # a store that wants one is not opened at all
    }
    assert detail(open_)["note"] == {"version": 1, "body": "mine"}
    assert ask(open_, *MUTATIONS["tell"]).status == 204
    study = optuna.load_study(study_name="small", storage=url)
    assert (study.trials[3].state, study.trials[3].value) == (TrialState.COMPLETE, 1.0)
    assert study.trials[3].user_attrs["checked"] == "yes"
    assert ask(open_, "POST", "/api/studies/2/rename", {"study_name": "newer"}).status == 201


def test_deleting_a_study_deletes_its_files_but_never_under_its_workers(open_, opened, waiting):
    folder = Path("artifacts", studies.artifacts_folder(opened, "small"))
    claim = queue.claim_trial(opened, 1, process.current_owner("cpu"), lease_seconds=60, max_attempts=3)
    refused = ask(open_, "DELETE", "/api/studies/1", {})
    assert (refused.status, "workers" in refused.json()["reason"]) == (409, True)
    claim.release()
    assert folder.exists()
    assert ask(open_, "DELETE", "/api/studies/1", {}).status == 204
    assert not folder.exists()
    assert ask(open_, "GET", "/api/studies").json() == {"study_summaries": []}


def test_a_study_tells_its_definition_and_a_trial_what_happened_to_it(shown, rows):
    before, found = rows(), detail(shown)
    assert found["objective_names"] == ["accuracy"]
    assert found["note"]["version"] == 0
    assert found["note"]["body"].count("`````") == 2, "a fence that the text cannot close"
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


def test_a_note_that_somebody_wrote_is_kept(url, opened, shown):
    study = optuna.load_study(study_name="small", storage=url)
    optuna_dashboard.save_note(study, "my study")
    optuna_dashboard.save_note(optuna.Trial(study, 2), "")
    found = detail(shown)
    assert found["note"]["body"] == "my study"
    bodies = [trial["note"]["body"] for trial in found["trials"]]
    assert bodies[1] == "", "emptied by hand"
    assert "**complete**" in bodies[0]


def test_a_trial_shows_its_files_and_gives_them_to_be_saved(shown, place):
    first, _, failed = detail(shown)["trials"]
    names = [file["filename"] for file in first["artifacts"]]
    assert names == ["settings.json", "epochs.csv", "weights-0002-001.pt"]
    assert [file["filename"] for file in failed["artifacts"]] == ["settings.json", "traceback.txt"]
    kinds = {file["filename"]: file["mimetype"] for file in first["artifacts"] + failed["artifacts"]}
    assert (kinds["epochs.csv"], kinds["traceback.txt"]) == ("text/csv", "text/plain")
    folder = next(Path("artifacts").glob("small-*"))
    for trial in (first, failed):
        for file in trial["artifacts"]:
            where = f"/artifacts/1/{trial['trial_id']}/{file['artifact_id']}"
            answer = ask(shown, "GET", where)
            assert answer.body == (folder / f"{trial['number']:04d}" / file["filename"]).read_bytes()
            assert answer.headers["content-disposition"] == f'attachment; filename="{file["filename"]}"'
            assert "sandbox" in answer.headers["content-security-policy"]
            assert "access-control-allow-origin" not in answer.headers


def test_a_file_that_is_not_there_or_anothers_is_not_found(shown, capfd):
    first, second, _ = detail(shown)["trials"]
    file = first["artifacts"][1]["artifact_id"]
    assert ask(shown, "GET", f"/artifacts/1/{second['trial_id']}/{file}").status == 404, "another trial's"
    assert ask(shown, "GET", f"/artifacts/2/1/{file}").status == 404
    assert ask(shown, "GET", f"/artifacts/1/99/{file}").status == 404
    assert ask(shown, "GET", f"/artifacts/1/{file}").status == 404
    next(Path("artifacts").glob("small-*/0000/epochs.csv")).unlink()
    assert ask(shown, "GET", f"/artifacts/1/{first['trial_id']}/{file}").status == 404
    assert "Traceback" not in capfd.readouterr().err


def test_what_people_add_is_inert_and_one_without_content_is_not_found(open_, opened, waiting, place):
    uploaded = ask(open_, *MUTATIONS["trial artifact"]).json()["artifact_id"]
    answer = ask(open_, "GET", f"/artifacts/1/4/{uploaded}")
    assert (answer.body, answer.headers["content-type"]) == (b"<script>", "text/html")
    assert answer.headers["content-disposition"] == "attachment"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "access-control-allow-origin" not in answer.headers
    (waits,) = detail(open_)["trials"][3:]
    assert [file["filename"] for file in waits["artifacts"]] == ["a.html"]
    assert orphans.unknown_folders(place, [studies.artifacts_folder(opened, "small")]) == [], (
        "it is no garbage"
    )
    Path("artifacts", "added", uploaded).unlink()
    assert ask(open_, "GET", f"/artifacts/1/4/{uploaded}").status == 404
    assert ask(open_, "DELETE", f"/api/artifacts/1/4/{uploaded}").status == 404
    again = ask(open_, *MUTATIONS["study artifact"]).json()["artifact_id"]
    assert ask(open_, "GET", f"/artifacts/1/{again}").body == b"<script>"
    assert ask(open_, "DELETE", f"/api/artifacts/1/{again}").status == 204
    assert not Path("artifacts", "added", again).exists()


def test_artifacts_behind_a_url_are_given_too(url, tmp_path, monkeypatch, place):
    remote = Artifacts(f"memory://exhibit-{tmp_path.name}-{url[:4]}")
    made(url, remote, "small")
    app = behind_gate(url, remote, read_only=True)
    first = detail(app)["trials"][0]
    table = ask(app, "GET", f"/artifacts/1/1/{first['artifacts'][1]['artifact_id']}")
    assert table.body.startswith(b"epoch,")


def test_a_trial_put_back_and_run_again_is_shown_as_it_is_now(shown, opened, place):
    states = [trial["state"] for trial in detail(shown)["trials"]]
    assert states == ["Complete", "Complete", "Fail"]
    Path("broken").unlink()
    control.retry_trials(opened, "small", None)
    assert detail(shown)["trials"][2]["state"] == "Waiting"
    run(opened, place, "small")
    wait_for(lambda: detail(shown)["trials"][2]["state"] == "Complete")  # asked anew every two seconds
    assert "attempts: 2" in detail(shown)["trials"][2]["note"]["body"]


def test_a_study_in_the_place_of_a_deleted_one_is_shown_as_itself(shown, opened, place, url):
    detail(shown)
    assert ask(shown, "GET", "/api/studies/1/param_importances").status == 200
    studies.delete_study(opened, "small")
    assert ask(shown, "GET", "/api/studies").json() == {"study_summaries": []}
    made(url, place, "other", "width")
    (study,) = ask(shown, "GET", "/api/studies").json()["study_summaries"]
    found = detail(shown, study["study_id"])
    assert found["name"] == "other"
    assert {each["name"] for each in found["union_search_space"]} == {"speed", "width"}
    where = f"/api/studies/{study['study_id']}"
    (given,) = ask(shown, "GET", f"{where}/param_importances").json()["param_importances"]
    assert {each["name"] for each in given} == {"speed", "width"}
    assert ask(shown, "GET", f"{where}/plot/slice").status == 200


def test_importance_is_what_plain_optuna_says(shown, url):
    (given,) = ask(shown, "GET", "/api/studies/1/param_importances").json()["param_importances"]
    study = optuna.load_study(study_name="small", storage=url)
    plain = optuna.importance.get_param_importances(study)
    assert {each["name"]: each["importance"] for each in given} == pytest.approx(plain)


def test_a_study_of_another_tools_is_shown_as_it_is(url, opened, shown):
    study = optuna.create_study(study_name="plain", storage=url)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    found = detail(shown, study._study_id)
    assert found["note"]["body"] == ""
    assert [trial["note"]["body"] for trial in found["trials"]] == ["", ""]
    assert found["trials"][0]["artifacts"] == []


def test_a_trial_that_waits_or_runs_says_how_far_it_is(opened, waiting):
    definition = studies.read_definition(opened, "small")
    trial = opened.get_trial(4)
    assert notes.trial_note(trial, definition).startswith("**waiting**\n")
    assert "queued by hand" in notes.trial_note(trial, definition)
    trial.intermediate_values = {1: 0.5, 2: 0.5}
    assert "**waiting**, continues after epoch 2" in notes.trial_note(trial, definition)
    trial.state = TrialState.RUNNING
    assert "**running** after epoch 2" in notes.trial_note(trial, definition)
    trial.state = TrialState.PRUNED
    trial.set_user_attr("pruned", "loss is nan at epoch 2, step 3")
    assert "**pruned** loss is nan at epoch 2, step 3" in notes.trial_note(trial, definition)
