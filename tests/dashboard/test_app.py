"""optuna-dashboard on stores of hpo: what hpo adds to its responses."""

import uuid
from pathlib import Path

import optuna
import optuna_dashboard
import pytest
from optuna.trial import TrialState

from hpo.artifacts.folders import Artifacts
from hpo.cli import orphans
from hpo.dashboard import notes, overview
from hpo.store import control, fingerprint, studies
from hpo.study.file import load_study_file
from tests.support.dashboard_study import (
    MUTATIONS,
    STUDY,
    behind_gate,
    create_and_run,
    detail,
    run_study,
    set_attributes,
)
from tests.support.processes import wait_for
from tests.support.reported_studies import make_trial, store_study
from tests.support.workplace import ROOT
from tests.support.wsgi import ask


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


def test_parameters_that_few_trials_have_print_no_warning(url, storage, read_only_app):
    study = optuna.create_study(study_name="plain", storage=url)
    known = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("lr", "momentum")}
    for n in range(6):
        given = {"lr": n / 10} | ({"momentum": 0.9} if n == 0 else {})
        each = {name: known[name] for name in given}
        study.add_trial(optuna.trial.create_trial(value=n / 10, params=given, distributions=each))
    answer = ask(read_only_app, "GET", f"/api/studies/{study._study_id}/param_importances")
    assert answer.status == 200, "a warning is an error in tests"


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


@pytest.mark.parametrize("name", ["../../../../../../../../etc/hostname", "/etc/hostname", "victim", 5])
def test_only_files_below_the_trials_own_folder_are_served(read_only_app, storage, artifacts, url, name):
    (Path(artifacts.root) / "victim").write_text("secret")
    set_attributes(url, trial=0, weights=name)
    shown = detail(read_only_app)["trials"][0]
    names = [each["filename"] for each in shown["artifacts"]]
    assert names == ["settings.json", "epochs.csv"]
    wanted = uuid.uuid5(uuid.NAMESPACE_URL, str(name))
    assert ask(read_only_app, "GET", f"/artifacts/1/{shown['trial_id']}/{wanted}").status == 404


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
    ("dashboard:objective_form_widgets", [1]),
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
    assert "measured on 100 images\n" in detail(app)["trials"][0]["note"]["body"]


def test_values_have_four_digits(url, artifacts):
    definition = load_study_file(ROOT / "studies/quickstart.toml")
    params = {"optimizer": "adam", "lr": 1e-3, "batch_size": 16}
    store_study(url, definition, [make_trial(definition, params, [0.5 / 3, 2 / 3], 0)])
    found = detail(behind_gate(url, artifacts, read_only=True))
    (trial,), (best,) = found["trials"], found["best_trials"]
    assert (trial["values"], best["values"]) == ([0.6667], [0.6667])
    assert [each["value"] for each in trial["intermediate_values"]] == [0.1667, 0.6667]
    assert "accuracy 0.6667" in trial["note"]["body"]


def test_a_note_shows_what_ran_and_marks_what_flags_changed(url, storage, artifacts):
    study = optuna.load_study(study_name="small", storage=url)
    study._storage.set_study_system_attr(study._study_id, "hpo:file", f"# --set train.epochs=9\n{STUDY}")
    body = detail(behind_gate(url, artifacts, read_only=True))["note"]["body"]
    assert "epochs = 9  # by a flag" in body
    assert "epochs = 2" not in body


def test_an_optimistic_value_is_marked(url, artifacts):
    definition = load_study_file(ROOT / "studies/original-grid.toml", ["train.selection='test'"])
    store_study(url, definition, [make_trial(definition, definition.points[0].hyperparameters(), [0.5], 0)])
    found = detail(behind_gate(url, artifacts, read_only=True))
    assert "chosen on: optimistic" in found["note"]["body"]
    assert "chosen on: optimistic" in found["trials"][0]["note"]["body"]
    assert "on the test split: optimistic" in overview.render_overview(
        studies.open_storage(url, create=False), artifacts
    )
