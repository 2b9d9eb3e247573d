"""A folder of 180 circles and 20 triangles: what is said of it, and by which metric a search finds both."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from hpo.analysis import by_class
from hpo.artifacts.folders import Artifacts
from tests.support.images import draw_images
from tests.support.log_lines import messages
from tests.support.workplace import load

COUNTS = {"circle": 180, "triangle": 20}
OWN = """
from torch import nn


def net(num_classes):
    layers = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, num_classes))
"""
STUDY = """
[train]
dataset = "folder:shapes"
image_size = 32
model = "own:net"
weights = "none"
valid_fraction = 0.2
epochs = 4
OPTIONS
[space]
lr = { low = 1e-6, high = 3e-2, log = true }
[search]
trials = 5
sampler = "random"
pruner = "none"
"""


def draw_noisy_shapes(folder, counts):
    """Draw grey circles and triangles on a background of nearly the same grey, under strong noise."""
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = Image.new("L", (32, 32), 100)
            x, y = generator.integers(6, 11, 2).tolist()
            corners = [(x + 8, y), (x, y + 16), (x + 16, y + 16)]
            draw = ImageDraw.Draw(image)
            if name == "circle":
                draw.ellipse((x, y, x + 16, y + 16), fill=160)
            else:
                draw.polygon(corners, fill=160)
            noisy = np.asarray(image) + generator.normal(0, 40, (32, 32))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03}.png")


def test_the_baseline_is_named_first_and_balanced_accuracy_finds_the_smaller_class(place):
    draw_noisy_shapes(place.path / "shapes", COUNTS)
    plain = place.study(STUDY.replace("OPTIONS", "").replace("trials = 5", "trials = 1"), "plain")
    done = place.hpo("run", plain, "--devices", "cpu:1")
    (data,) = [line for line in messages(done.err) if line.startswith("hpo: data: ")]
    assert "from 20 of 'triangle' to 180 of 'circle'; always answering" in data
    assert "'circle' gives accuracy 0.9000 on the validation split" in data
    first = done.err.index("data: ")
    assert done.err.index("trial 0 starts") > first, "the first line about images"

    options = 'metric = "balanced_accuracy"\nclass_weights = "balanced"'
    place.here("create", place.study(STUDY.replace("OPTIONS", options), "balanced"))
    place.here("worker", "balanced")
    values = [trial.value for trial in load(place, "balanced").trials]
    best = place.here("best", "balanced", "--json").json()
    assert best["value"] == max(values) > 0.7
    assert min(values) < 0.7, "not all settings find the triangles"

    confusion = by_class.read_confusion(Artifacts(str(place.path / "storage/artifacts")), best["weights"])
    assert not isinstance(confusion, str)
    circles, triangles = by_class.class_results(confusion)
    assert (circles.images, triangles.images) == (36, 4)
    assert triangles.recall >= 0.5
    assert (circles.recall + triangles.recall) / 2 == pytest.approx(best["value"])
    place.here("report", "balanced", "-o", "page.html")
    page = (place.path / "page.html").read_text()
    assert "Best trial, by class" in page
    assert f"Trial {best['trial']} on the 40 images of the validation split" in page


def test_a_metric_that_the_images_do_not_have_stops_the_study_and_loses_nothing(place):
    draw_images(place.path / "shapes", ("circle", "triangle"), 12)
    for file in sorted((place.path / "shapes/triangle").iterdir())[2:]:
        file.unlink()
    text = (
        STUDY.replace("OPTIONS", 'metric = "auroc"')
        .replace("epochs = 4", "epochs = 1")
        .replace("s = 5", "s = 1")
    )
    text = text.replace("valid_fraction = 0.2", "valid_fraction = 0.1")
    file = place.study(text)
    place.here("create", file)
    for start, words, code in (
        (place.here, ("worker", "small"), 78),
        (place.hpo, ("run", file, "--devices", "cpu:1"), 1),
    ):
        done = start(*words, code=code)
        last = messages(done.err)[-1]
        assert last.startswith(
            "hpo: train.metric: auroc needs two classes or more in the split that trials are measured on; "
            "'folder:shapes' has "
        )
        assert last.endswith("; choose another metric, such as balanced_accuracy")
        assert "Traceback" not in done.err
        (trial,) = load(place).trials
        assert (trial.state.name, trial.values) == ("WAITING", None)
    place.here("create", place.study(text.replace("auroc", "balanced_accuracy")))
    place.here("worker", "small")
    assert [trial.state.name for trial in load(place).trials] == ["COMPLETE"]
