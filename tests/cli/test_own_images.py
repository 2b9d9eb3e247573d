"""Studies of a folder of images: from the search to an answer, and what is refused."""

import os

import pytest
import torchvision
from PIL import Image

from tests.support.images import draw_images
from tests.support.log_lines import messages

ADVICE = "give the path of yours in the study file, or with --set train.dataset=folder:PATH"


def test_a_folder_of_images_is_searched_reported_exported_and_predicted(workplace):
    draw_images(workplace.path / "my-images", ("cats", "große Hunde", "two words"), 12)
    (workplace.path / "my-images/cats/notes.txt").write_text("not an image")
    settings = {"train.dataset": "folder:./my-images", "train.weights": "none", "train.model": "resnet18"}
    settings |= {"train.image_size": "32", "train.epochs": "1", "train.warmup_epochs": "0"}
    settings |= {"search.trials": "1"}
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run = workplace.hpo("run", "own-images", "--name", "mine", "--devices", "cpu:1", *flags)
    assert "ignored 1 file of other kinds, such as my-images/cats/notes.txt" in run.err
    workplace.here("report", "mine", "-o", "mine.html")
    workplace.here("export", "mine", "--to", "winner")
    photographs = [str(path) for path in (workplace.path / "my-images").glob("*/*.jpg")]
    predicted = workplace.hpo("predict", "winner", *photographs)
    assert len(predicted.out.splitlines()) == len(photographs)
    assert "große Hunde 0." in predicted.out


def test_weights_that_cannot_be_had_are_told_before_images_are_decoded(workplace, monkeypatch):
    draw_images(workplace.path / "my-images", ("cats", "dogs"), 12)
    flags = ("--set", "train.dataset=folder:./my-images", "--set", "train.model=resnet18")
    workplace.here("create", "own-images-quick", *flags)
    monkeypatch.setenv("TORCH_HOME", str(workplace.path / "torch"))
    entry = torchvision.models.ResNet18_Weights.DEFAULT.value
    monkeypatch.setattr(entry, "url", "http://127.0.0.1:1/resnet18-f37072fd.pth")  # nothing listens there
    monkeypatch.setattr(Image.Image, "load", None)  # so decoding would fail
    done = workplace.here("worker", "own-images-quick", code=None)
    assert done.code != 0
    assert "no ImageNet weights for resnet18: resnet18-f37072fd.pth is not in" in done.err
    assert "--set train.weights=none --set train.tune=all" in done.err


def test_a_mistyped_folder_is_reported_before_a_study_is_stored(workplace):
    flags = ("--set", "train.weights=none", "--set", "train.dataset=folder:./my-imagse")
    done = workplace.here("run", "finetune", *flags, code=1)
    wanted = f"hpo: train.dataset: 'folder:./my-imagse': there is no such folder; {ADVICE}"
    assert messages(done.err) == [wanted]
    assert os.listdir(workplace.path) == []


@pytest.mark.parametrize("given", ["./my-images", "folder:./my-imagse", "folder:my-image/"])
def test_the_folder_that_was_meant_is_named(workplace, given):
    (workplace.path / "my-images").mkdir()
    done = workplace.here("run", "finetune", "--set", f"train.dataset={given}", code=1)
    meant = "folder:my-images" if given.endswith("/") else "folder:./my-images"
    assert f"'{given}'" in done.err
    assert f"did you mean '{meant}'? " in done.err


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 300])
def test_create_refuses_a_folder_that_no_machine_can_have(workplace, name):
    flags = ("--set", "train.weights=none", "--set", f"train.dataset=folder:{name}")
    done = workplace.here("create", "finetune", *flags, code=1)
    assert done.err.startswith(f"hpo: train.dataset: 'folder:{name[:9]}")
    assert done.err.count("\n") == 1
    assert os.listdir(workplace.path) == []
