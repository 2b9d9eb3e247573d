"""The expected cost of a study: sums, measurements, and the output of ``hpo plan``."""

import subprocess
import sys

import pytest
import torch

from hpo.analysis import cost, cost_text, epoch_cost, step_timing
from hpo.analysis.cost import CostPart, Forecast
from hpo.analysis.pruned_share import run_share
from hpo.original import prices
from hpo.study.file import find_study_file, load_study_file
from hpo.study.search_options import Pruner
from hpo.training import batches, datasets, loop, shapes
from hpo.training.config import Config, FinalConfig
from hpo.training.devices import WorkerDevice
from tests.support.images import write_idx

CPU = torch.device("cpu")
DEVICE = WorkerDevice(name="cpu", threads=1)
BY_THREE = {"min_epochs": 1, "reduction_factor": 3}

OWN = """
import time

def slow(config, state):
    for epoch in range(config.epochs):
        time.sleep(0.2)
        yield config.x, epoch
"""


def make_part(**values) -> CostPart:
    defaults = {"point": None, "setting": {}, "trials": 1.0, "epochs": 10, "epoch_seconds": 360.0}
    defaults |= {"peak_gib": 1.0, "original_epoch_seconds": None, "original_seconds": None}
    return CostPart(**(defaults | values))


def make_forecast(*parts: CostPart, **values) -> Forecast:
    defaults = {"study": "s", "device": "cpu", "workers": 1, "images": 1, "selection": 1, "share": 1.0}
    return Forecast(parts=parts, **(defaults | {"prune_points": False} | values))


@pytest.mark.parametrize(
    ("pruner", "epochs", "share"),
    [
        ({"name": "none"}, 9, 1.0),
        ({"name": "patient"}, 9, 1.0),
        # Rungs at 1, 3 and 9: all run 1, a third 2 more, a ninth 6 more.
        ({"name": "asha", **BY_THREE}, 9, (1 + 2 / 3 + 6 / 9) / 9),
        # Three brackets, of which the others begin at 3 and at 9.
        ({"name": "hyperband", **BY_THREE}, 9, ((1 + 2 / 3 + 6 / 9) + (3 + 6 / 3) + 9) / 27),
        ({"name": "asha", "min_epochs": 20}, 9, 1.0),
        ({"name": "median", "min_epochs": 2}, 10, 0.5 + 0.5 * 0.2),
        # Measured: an eighth of the epochs after the first two.
        ({"name": "freeze_thaw", "min_epochs": 2}, 10, 0.2 + 0.8 / 8),
        ({"name": "freeze_thaw", "min_epochs": 20}, 10, 1.0),
        ({"name": "percentile", "percentile": 25.0, "min_epochs": 1}, 10, 0.25 + 0.75 * 0.1),
    ],
)
def test_run_share_is_the_share_of_epochs_that_a_pruner_lets_run(pruner, epochs, share):
    assert run_share(Pruner(**pruner), epochs) == pytest.approx(share)


def test_replicates_are_run_for_half_of_the_trials_that_a_pruner_completes():
    asha = Pruner(name="asha", **BY_THREE)
    first = (1 + 2 / 3 + 6 / 9) / 9
    assert run_share(asha, 9, 3) == pytest.approx((first + 2 * (1 / 9) / 2) / 3)
    assert run_share(Pruner(name="none"), 9, 3) == 1.0


def test_workers_divide_the_hours_but_not_a_trial():
    many, long = make_part(trials=8.0), make_part(point=1, epochs=60)
    found = make_forecast(many, long, workers=4)
    assert found.device_hours == pytest.approx(8 * 1 + 6)
    assert found.wall_hours(found.device_hours) == pytest.approx(6), "the time of the longest trial"
    assert make_forecast(many, workers=4).wall_hours(8.0) == pytest.approx(2)


def test_listed_points_are_pruned_only_with_prune_points():
    parts = (make_part(trials=8.0), make_part(point=1))
    assert make_forecast(*parts, share=0.5).pruned_device_hours == pytest.approx(4 + 1)
    assert make_forecast(*parts, share=0.5, prune_points=True).pruned_device_hours == pytest.approx(4 + 0.5)


def test_a_setting_that_does_not_fit_in_memory_is_reported_and_not_counted(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(loop, "TrainingRun", full)
    shape = shapes.DatasetShape(train=64, selection=8, pixels=8, channels=1, classes=10)
    assert step_timing.measure_cost(Config(dataset="digits"), shape, CPU) is None
    found = make_forecast(make_part(), make_part(epoch_seconds=None, peak_gib=None))
    assert found.device_hours == pytest.approx(1)
    assert "not in these totals: 1 row" in "\n".join(cost_text.summary_lines(found))


def test_the_shape_of_a_data_set_known_by_name_is_that_of_the_loaded_one(tmp_path, monkeypatch):
    labels = [index % 10 for index in range(200)]
    write_idx(tmp_path / "mnist", labels, test_labels=labels[:40])
    channels, pixels = datasets.load_dataset(Config(dataset="mnist"), tmp_path).train.images.shape[1:3]
    shape = shapes.KnownShape(train=200, test=40, pixels=pixels, channels=channels)
    monkeypatch.setitem(shapes.KNOWN_SHAPES, "mnist", shape)
    final = FinalConfig(dataset="mnist", limit=90)
    cases = ({}, {"selection": "test"}, {"limit": 90}, {"selection": "test", "limit": 90}, {"limit": 7})
    configs = [Config(dataset=name, **case) for name in ("mnist", "digits") for case in cases]
    for config in (final, final.model_copy(update={"dataset": "digits"}), *configs):
        loaded, shape = datasets.load_dataset(config, tmp_path), datasets.dataset_shape(config, tmp_path)
        assert (shape.train, shape.selection) == (len(loaded.train), len(loaded.selection)), config
        assert shape.classes == len(loaded.classes)


SCARCE = """
[train]
dataset = "digits"
image_size = 16
weights = "none"
epochs = 2
[space]
optimizer = ["sgd", "adam"]
momentum = {{ low = 0.5, high = 0.9, step = 0.2, when = {{ optimizer = "sgd" }} }}
lr = {lr}
[search]
trials = 20
replicates = 2
"""


@pytest.mark.parametrize(
    ("lr", "trials", "left_out"),
    [
        ("[0.1, 0.01]", {"sgd": 12, "adam": 4}, 12),
        ("{ low = 1e-4, high = 0.1 }", {"sgd": 20, "adam": 20}, 0),
    ],
)
def test_only_trials_that_can_run_are_counted(workplace, monkeypatch, lr, trials, left_out):
    measured = step_timing.MeasuredCost(step_seconds=0.1, image_seconds=0.01, peak_gib=1.0)
    monkeypatch.setattr(step_timing, "measure_cost", lambda *arguments: measured)
    study = workplace.study(SCARCE.format(lr=lr))
    found = workplace.here("plan", study, "--devices", "cpu:1", "--json").json()
    assert {part["setting"]["optimizer"]: part["trials"] for part in found["parts"]} == trials
    assert found["left_out_trials"] == left_out
    note = f"not in these totals: {left_out} searched trials; the space has no setting left for them"
    assert (note in workplace.here("plan", study, "--devices", "cpu:1").out) == bool(left_out)


def test_a_plan_says_which_weights_are_still_to_be_downloaded(workplace, monkeypatch):
    measured = step_timing.MeasuredCost(step_seconds=0.1, image_seconds=0.01, peak_gib=1.0)
    monkeypatch.setattr(step_timing, "measure_cost", lambda *arguments: measured)
    study = workplace.study(
        '[train]\ndataset = "digits"\n[space]\nlr = [0.1]\nweights = ["none", "DEFAULT"]\n'
    )
    home = workplace.path / "torch"
    arguments = ("plan", study, "--devices", "cpu:1")
    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert workplace.here(*arguments, "--json", TORCH_HOME=str(home)).json()["missing_weights"] == [url]
    told = f"weights that trials will download, not yet in {home}/hub/checkpoints: resnet18-f37072fd.pth ("
    assert told in workplace.here(*arguments, TORCH_HOME=str(home)).out
    assert "download" not in workplace.here(*arguments, "--set", "train.weights=none").out


PEAKS = """
import torch
from hpo.analysis.step_timing import track_peak_memory
from hpo.training import precision

precision.keep_freed_memory()
for size in (2**28, 2**20):
    with track_peak_memory(torch.device("cpu")) as peak:
        torch.ones(size)
    print(*peak)
"""


def test_the_peak_memory_does_not_include_that_of_an_earlier_larger_training():
    done = subprocess.run([sys.executable, "-c", PEAKS], check=True, capture_output=True, text=True)
    large, small = map(float, done.stdout.split())
    assert large - small == pytest.approx(1.0, abs=0.05), "GiB"


def test_each_kind_of_training_is_measured_once(monkeypatch, tmp_path):
    measured = []

    def measure(config, shape, device):
        if config.batch_size > 2:
            measured.append((config.model, config.optimizer, config.batch_size))
        return step_timing.MeasuredCost(step_seconds=0.01, image_seconds=0.1, peak_gib=0.5)

    monkeypatch.setattr(step_timing, "measure_cost", measure)
    grid = load_study_file(find_study_file("original-grid"), [], None)
    found = cost.forecast_cost(grid, [DEVICE] * 2, CPU, tmp_path, known_cost=prices.known_cost)
    assert len(found.parts) == 14
    assert sorted(measured) == [
        ("alexnet", "adam", 16),
        ("alexnet", "sgd", 16),
        ("resnet18", "adam", 16),
        *(("resnet18", "sgd", n) for n in (8, 16, 32, 64)),
        ("vgg16", "adam", 16),
        ("vgg16", "sgd", 16),
    ]
    # CIFAR-10 has 50,000 images to train on; the report's split is the 10,000 test images.
    assert found.parts[0].epoch_seconds == pytest.approx(31.25 + 1000)
    assert found.device_hours == pytest.approx(sum(p.epochs * p.epoch_seconds for p in found.parts) / 3600)
    assert found.original_hours == pytest.approx(24.4, abs=0.1)
    assert found.pruned_device_hours == found.device_hours, "points are not pruned"

    short = load_study_file(find_study_file("original-grid"), ["train.epochs=1"], None)
    scaled = cost.forecast_cost(short, [DEVICE] * 2, CPU, tmp_path, known_cost=prices.known_cost)
    assert scaled.original_hours == found.original_hours, "the report ran its own epochs"

    (tmp_path / "s.toml").write_text(
        '[train]\ndataset = "digits"\nepochs = 4\n[space]\nmodel = ["resnet18", "alexnet"]\n'
        'batch_size = [16, 32]\noptimizer = ["sgd", "adamw"]\nlr = { low = 1e-4, high = 1e-2 }\n'
        "[search]\ntrials = 6\n"
    )
    searched = cost.forecast_cost(load_study_file(tmp_path / "s.toml", [], None), [DEVICE], CPU, tmp_path)
    assert [each.trials for each in searched.parts] == [0.75] * 8
    assert {tuple(each.setting) for each in searched.parts} == {("model", "batch_size", "optimizer")}
    assert searched.original_hours is None


PARTLY = """
[train]
dataset = "digits"
batch_size = 32
epochs = 10
{train}
[space]
lr = [0.1, 0.01]
{space}
[search]
trials = 4
"""


@pytest.fixture
def priced(monkeypatch) -> list[tuple]:
    """Let a step take 10 ms, with tune = "head" 2 ms, and augmentation 1 ms for each letter of its name.

    Returns:
        What was measured.
    """
    measured = []

    def measure(config, shape, device):
        if config.batch_size > 2:
            measured.append((config.tune, config.augmentation))
        step_seconds = 0.01 if config.tune == "all" else 0.002
        return step_timing.MeasuredCost(step_seconds=step_seconds, image_seconds=0.0, peak_gib=0.5)

    def measure_augmentation(config, shape, device):
        measured.append((config.augmentation, config.auto_augment))
        return (len(config.augmentation) + len(config.auto_augment) - 8) / 1000

    monkeypatch.setattr(step_timing, "measure_cost", measure)
    monkeypatch.setattr(step_timing, "measure_augmentation", measure_augmentation)
    return measured


def step_seconds(workplace, train: str = "", space: str = "") -> list[float]:
    """Return the seconds of a step of each part, as the mean over all epochs."""
    study = workplace.study(PARTLY.format(train=train, space=space))
    parts = workplace.here("plan", study, "--devices", "cpu:1", "--json").json()["parts"]
    images = datasets.dataset_shape(Config(dataset="digits"), workplace.path).train
    return [part["epoch_seconds"] / len(batches.batch_bounds(images, 32)) for part in parts]


def test_epochs_with_a_frozen_body_cost_what_an_epoch_of_the_head_costs(workplace, priced):
    assert step_seconds(workplace, "freeze_epochs = 3") == [pytest.approx(0.007 + 0.3 * 0.002)]
    assert priced == [("all", "none"), ("head", "none")]


def test_a_search_among_augmentations_costs_their_mean_and_each_is_timed_once(workplace, priced):
    space = 'auto_augment = ["none", "randaugment"]\nmixup_alpha = [0.0, 0.1, 0.2]'
    found = step_seconds(
        workplace, "", f'model = ["resnet18", "squeezenet1_1"]\naugmentation = ["none", "flip"]\n{space}'
    )
    assert found == [pytest.approx(0.01 + 0.007 / 2)] * 2
    assert priced.count(("all", "none")) == 2
    assert len(priced) == 2 + 7, (
        "each way once for both models: with and without mixup, but not none of them"
    )


def test_a_fixed_augmentation_is_part_of_the_steps_that_are_measured(workplace, priced):
    assert step_seconds(workplace, 'augmentation = "flip"') == [pytest.approx(0.01)]
    assert priced == [("all", "flip")]


def test_the_augmentation_of_a_batch_is_timed():
    shape = shapes.DatasetShape(train=64, selection=8, pixels=16, channels=3, classes=10)
    for options in ({"auto_augment": "randaugment", "mixup_alpha": 0.2}, {"augmentation": "resized_crop"}):
        assert step_timing.measure_augmentation(Config(image_size=32, **options), shape, CPU) > 0


@pytest.mark.parametrize(
    ("train", "space", "at_most"),
    [
        ("early_stopping = 2", "", ["early_stopping"]),
        ("", "early_stopping = [2, 3]", ["early_stopping"]),
        ('tune = "head"', "", ["tune"]),
        ('tune = "head"\naugmentation = "flip"', "", []),
        ("freeze_epochs = 1", "", []),
        ("early_stopping = 5", "freeze_epochs = [0, 1]", ["early_stopping", "freeze_epochs"]),
    ],
)
def test_a_plan_says_why_it_is_an_upper_bound(workplace, priced, train, space, at_most):
    study = workplace.study(PARTLY.format(train=train, space=space))
    assert workplace.here("plan", study, "--devices", "cpu:1", "--json").json()["at_most"] == at_most
    out = workplace.here("plan", study, "--devices", "cpu:1").out
    assert ("in all at most" in out) == ("at most, because" in out) == bool(at_most)
    assert all(cost.SAVINGS[name] in out for name in at_most)


def test_a_plan_says_what_the_output_of_frozen_layers_takes(workplace, monkeypatch):
    measured = step_timing.MeasuredCost(step_seconds=0.01, image_seconds=0.01, peak_gib=0.5)
    monkeypatch.setattr(step_timing, "measure_cost", lambda *_: measured)
    models = 'model = ["resnet18", "squeezenet1_1"]\noptimizer = ["sgd", "adamw"]'
    study = workplace.study(PARTLY.format(train='tune = "head"', space=models))
    document = workplace.here("plan", study, "--devices", "cpu:1", "--json").json()
    once = 0.01 * (document["images"] + document["selection"])
    assert [part["pass_seconds"] for part in document["parts"]] == [pytest.approx(once)] * 4
    out = workplace.here("plan", study, "--devices", "cpu:1").out
    assert f"the output of frozen layers takes {2 * once:.0f} seconds of one device" in out


def test_a_plan_is_shown_as_a_table_and_as_json_without_data_or_store(workplace, monkeypatch):
    monkeypatch.setattr(step_timing, "MAX_STEPS", 2)
    monkeypatch.setattr(epoch_cost, "SLOW_STEP_SECONDS", 60.0)
    (workplace.path / "grid.toml").write_text(
        "[train]\nimage_size = 32\n[search]\nsampler = 'grid'\n"
        "[[points]]\nmodel = 'resnet18'\noptimizer = 'adam'\nlr = 0.001\nbatch_size = 16\n"
        "epochs = 30\nsite = 'C'\n[[points]]\nmodel = 'squeezenet1_1'\nlr = 0.1\n"
    )
    done = workplace.here("plan", "grid.toml", "--devices", "cpu:2")
    row = next(line for line in done.out.splitlines() if "resnet18" in line)
    assert row.split()[:2] == ["1", "model"]
    assert row.split()[-1] == "125", "the report's seconds"
    assert "with 2 workers on cpu" in done.out
    assert "measuring 1 of 2: model resnet18, optimizer adam, image_size 32, batch_size 16" in done.err
    assert "original report" not in done.out, "it ran only one of the two points"
    assert [path.name for path in workplace.path.iterdir()] == ["grid.toml"]
    file = workplace.study(
        '[train]\ndataset = "digits"\nimage_size = 16\nweights = "none"\nepochs = 2\n'
        "[space]\nlr = { low = 1e-4, high = 1e-2 }\n[search]\ntrials = 3\n"
    )
    found = workplace.hpo("plan", file, "--json", "--devices", "cpu:1").json()
    (only,) = found["parts"]
    assert (only["trials"], only["epochs"], found["workers"]) == (3, 2, 1)
    assert found["device_hours"] == pytest.approx(3 * 2 * only["epoch_seconds"] / 3600)
    assert only["epoch_seconds"] > 0
    assert only["peak_gib"] > 0
    refused = workplace.here("plan", "original-gird", code=1)
    assert refused.err.count("\n") == 1


def test_the_table_shows_times_with_their_unit():
    table = cost_text.make_table(
        make_forecast(make_part(epochs=1, epoch_seconds=1.4), make_part(trials=8.0))
    )
    (times,) = [column.cells for column in table.columns if column.header == "time"]
    assert list(times) == ["1 s", "8.0 h"]


def test_the_cost_of_a_custom_objective_is_measured_on_one_epoch(place):
    file = place.study(
        '[train]\nobjective = "own:slow"\nepochs = 5\n[space]\nx = { low = 0.0, high = 1.0 }\n'
        "[search]\ntrials = 7\n"
    )
    found = place.here("plan", file, "--json").json()
    (only,) = found["parts"]
    assert only["epoch_seconds"] >= 0.2
    assert found["device_hours"] == pytest.approx(7 * 5 * only["epoch_seconds"] / 3600)
    assert not (place.path / "storage").exists()
