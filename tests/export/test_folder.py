"""Exported folders: which trial, which files, what is refused."""

import json
import os
import shutil
import uuid

import fsspec
import torch
import yaml

from hpo.export import predict
from hpo.store import studies
from tests.support.exported import DIGITS, export, export_error, trials_of

OWN = """
import torch

def climb(config, state):
    yield 0.5, {"epoch": 1, "weight": torch.zeros(2)}
"""

# -- The trial -------------------------------------------------------------------------------------


def test_the_best_trial_is_exported_unless_another_is_named(finished, winner, tmp_path):
    best = finished.here("best", "digits", "--json").json()
    config = json.loads((winner / "config.json").read_text())
    assert (config["study"], config["trial"]) == ("digits", best["trial"])
    metrics = json.loads((winner / "metrics.json").read_text())
    assert (metrics["accuracy"], metrics["epoch"]) == (best["accuracy"], best["best_epoch"])
    trial = trials_of(finished, "digits")[best["trial"]]
    assert metrics["accuracies"] == list(trial.intermediate_values.values())
    other = tmp_path / "other"
    done = finished.here("export", "digits", "--trial", "1", "--to", str(other))
    assert done.out.startswith(f"trial 1 of study digits is in {other}\n")
    settings = json.loads((other / "config.json").read_text())["settings"]
    assert (settings["model"], settings["lr"], settings["epochs"]) == ("squeezenet1_1", 0.001, 1)


def test_a_pruned_trial_is_exported_with_the_accuracy_of_its_weights_epoch(finished, workplace):
    shutil.copytree(finished.path / "storage", workplace.path / "storage")
    database = f"sqlite:///{workplace.path}/storage/hpo.db"
    with studies.open_storage(database, create=False).transaction() as session:
        session.connection().exec_driver_sql("UPDATE trials SET state = 'PRUNED'")
        session.connection().exec_driver_sql("UPDATE trial_values SET value = 0.123")
    refused = export_error(workplace, "digits", workplace.path / "best")
    assert (
        "no complete trial yet; 'hpo export digits --trial 0' takes the best so far, which is pruned"
        in refused
    )
    export(workplace, "digits", workplace.path / "pruned", 0)
    trial = trials_of(workplace, "digits")[0]
    metrics = json.loads((workplace.path / "pruned/metrics.json").read_text())
    assert metrics["accuracy"] == trial.intermediate_values[trial.user_attrs["best_epoch"]]
    assert metrics["state"] == "pruned"
    assert (
        "| trial | pruned: it did not run all of its epochs |"
        in (workplace.path / "pruned/README.md").read_text()
    )


# -- The folder ------------------------------------------------------------------------------------


def test_the_folder_is_complete_and_its_files_agree(finished, winner, labels):
    names = {"README.md", "config.json", "labels.txt", "metrics.json", "model.safetensors", "samples.png"}
    assert set(os.listdir(winner)) == names
    assert (winner / "labels.txt").read_text() == "".join(f"{digit}\n" for digit in range(10))
    assert not [name for name in os.listdir(finished.path) if "draft" in name]
    best = finished.here("best", "digits", "--json").json()
    weights = finished.path / "storage/artifacts" / best["weights"]
    assert (winner / "model.safetensors").read_bytes() == weights.read_bytes()
    _, block, text = (winner / "README.md").read_text().split("---\n", 2)
    (entry,) = yaml.safe_load(block)["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {"name": "digits", "type": "images", "split": "validation"}
    assert result["metrics"][0]["value"] == best["accuracy"]
    measured = f"{best['accuracy']:.4f} on the validation split ({len(labels)} images)"
    assert f"| accuracy | {measured} |" in text
    for word in (
        f"digits, trial {best['trial']}",
        "seconds",
        "torch",
        "| lr | 0.0",
        "convert to grey",
        "8 pixels",
    ):
        assert word in text, word


def test_an_accuracy_that_was_chosen_on_the_test_split_is_marked(finished, tmp_path):
    done = finished.here("export", "shapes", "--to", str(tmp_path / "shapes"))
    assert "on the test split, which it was also chosen on: optimistic" in done.out
    metrics = json.loads((tmp_path / "shapes/metrics.json").read_text())
    assert (metrics["split"], metrics["optimistic"]) == ("test", True)
    text = (tmp_path / "shapes/README.md").read_text()
    assert "which it was also chosen on: optimistic" in text.partition("## ")[0], "the block of metadata"
    assert "which it was also chosen on: optimistic" in text.partition("## How good")[2]


def test_the_folder_reveals_no_host_name_or_local_path(finished, tmp_path):
    export(finished, "shapes", tmp_path / "given")
    trial = trials_of(finished, "shapes")[0]
    for name in ("README.md", "config.json", "metrics.json"):
        text = (tmp_path / "given" / name).read_text()
        assert str(finished.path) not in text
        assert f'"{trial.user_attrs["hardware"]["host"]}"' not in text
    settings = json.loads((tmp_path / "given/config.json").read_text())["settings"]
    assert settings["dataset"] == "folder:images"
    assert (tmp_path / "given/labels.txt").read_text() == "Dreiecke ∆\na|b\n"
    assert r"Classes: Dreiecke ∆, a\|b" in (tmp_path / "given/README.md").read_text()


def test_a_target_that_is_not_an_empty_folder_is_left_unchanged(finished, winner, tmp_path):
    before = {name: (winner / name).stat().st_mtime_ns for name in os.listdir(winner)}
    (tmp_path / "file").write_text("mine")
    for target in (winner, tmp_path / "file"):
        words = f"--to {target}: exists and is not an empty folder; choose a new folder"
        assert export_error(finished, "digits", target) == words
    assert {name: (winner / name).stat().st_mtime_ns for name in os.listdir(winner)} == before
    assert (tmp_path / "file").read_text() == "mine"
    assert export_error(finished, "digits", tmp_path / "file/below").endswith("below: Not a directory")
    (tmp_path / "empty").mkdir()
    export(finished, "digits", tmp_path / "empty")
    assert (tmp_path / "empty/model.safetensors").exists()


def test_damaged_weights_are_refused_and_leave_no_files(finished, tmp_path):
    artifacts = tmp_path / "artifacts"
    shutil.copytree(finished.path / "storage/artifacts", artifacts)
    weights = artifacts / trials_of(finished, "digits")[0].user_attrs["weights"]
    weights.write_bytes(weights.read_bytes()[:-100])
    refused = export_error(finished, "digits", tmp_path / "to/winner", 0, str(artifacts))
    assert refused.startswith(f"{weights}: is damaged, or not the weights of trial 0")
    weights.unlink()
    refused = export_error(finished, "digits", tmp_path / "to/winner", 0, str(artifacts))
    assert refused == f"{weights}: no such file; --artifacts or HPO_ARTIFACTS says where they are"
    assert os.listdir(tmp_path / "to") == []


def test_a_trial_with_artifacts_at_a_url_is_exported(finished, tmp_path):
    root = f"memory://{uuid.uuid4().hex}"
    artifacts = finished.path / "storage/artifacts"
    fsspec.filesystem("memory").put(f"{artifacts}/", f"{root}/", recursive=True)
    found = export(finished, "digits", tmp_path / "winner", 1, root)
    assert found.value == trials_of(finished, "digits")[1].value
    assert predict.Predictor(tmp_path / "winner").description.model == "squeezenet1_1"
    refused = export_error(finished, "digits", tmp_path / "other", 1, "memory://nowhere")
    assert refused.startswith("memory:///nowhere/digits-")
    assert "settings.json: no such file" in refused


# -- Trials that cannot be exported ----------------------------------------------------------------


def test_missing_trials_and_trials_without_weights_are_refused_and_others_suggested(workplace):
    workplace.here("create", workplace.study(DIGITS, "digits"))
    target = workplace.path / "winner"
    for number, words in (
        (None, "study 'digits' has no complete trial yet"),
        (9, "study 'digits' has no trial 9"),
        (1, "trial 1 of study 'digits' is waiting and has no weights; with weights: none yet"),
    ):
        assert export_error(workplace, "digits", target, number).startswith(words)
    done = workplace.here("export", "digit", "--to", "winner", code=1)
    assert done.err == "hpo: no study 'digit' in the store; did you mean 'digits'? there are: digits\n"
    assert not target.exists()


def test_for_a_custom_objective_the_weights_file_is_named(place):
    text = '[train]\nobjective = "own:climb"\nepochs = 1\n[search]\nsampler = "grid"\n[[points]]\nx = 1\n'
    place.here("create", place.study(text))
    place.here("worker", "small")
    done = place.here("export", "small", "--to", "winner", code=1)
    assert done.err.startswith("hpo: study 'small' has a custom objective (own:climb)")
    assert done.err.count("\n") == 1
    assert torch.load(done.err.split()[-1], weights_only=True)["epoch"] == 1
