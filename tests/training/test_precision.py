"""Precision and memory format: what a device takes, and what they do to a run."""

import subprocess
import sys
import time

import pytest
import torch

from hpo.errors import DeviceError
from hpo.training import datasets, loop
from hpo.training import precision as numerics
from hpo.training.config import Config
from hpo.training.precision import ComputeSettings

CPU = torch.device("cpu")


def settings(**options) -> Config:
    small = {"dataset": "digits", "image_size": 32, "weights": "none", "limit": 64, "epochs": 1}
    return Config(**(small | options))


def ran(config: Config, tmp_path, **how) -> loop.TrainingRun:
    images = datasets.load_dataset(config, tmp_path)
    run = loop.TrainingRun(config, images, CPU, compute_settings=ComputeSettings(**how))
    list(run.epochs())
    return run


def test_channels_last_gives_the_same_losses_to_float_tolerance(tmp_path):
    plain, last = (ran(settings(), tmp_path, memory_format=name) for name in numerics.MEMORY_FORMATS)
    # Batch norm over a pixel of 16 images makes more of what is rounding at first.
    assert last.history[0].train_loss == pytest.approx(plain.history[0].train_loss, rel=5e-3)
    weights = last.model.conv1.weight
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert not weights.is_contiguous()


def test_bf16_computes_in_halves_and_keeps_weights_in_32_bits(tmp_path):
    seen = []

    def note(module, inputs, output):
        seen.append(output.dtype)

    config = settings(limit=32)
    images = datasets.load_dataset(config, tmp_path)
    run = loop.TrainingRun(config, images, CPU, compute_settings=ComputeSettings(precision="bf16"))
    run.model.conv1.register_forward_hook(note)
    (epoch,) = run.epochs()
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    plain = ran(config, tmp_path)
    assert epoch.train_loss == pytest.approx(plain.history[0].train_loss, rel=0.05)


def test_a_run_in_fp16_goes_on_with_its_loss_scale(tmp_path):
    config = settings(limit=16, batch_size=8, image_size=16, epochs=2)
    images = datasets.load_dataset(config, tmp_path)
    how = ComputeSettings(precision="fp16")
    whole = loop.TrainingRun(config, images, CPU, compute_settings=how)
    first, second = whole.epochs()
    half = loop.TrainingRun(config, images, CPU, compute_settings=how)
    next(half.epochs())
    rest = loop.TrainingRun(config, images, CPU, compute_settings=how, state=half.state())
    assert rest.scaler.get_scale() == half.scaler.get_scale()
    (again,) = rest.epochs()
    assert again.train_loss == second.train_loss
    assert half.history[0].train_loss == first.train_loss


def test_compiled_steps_serve_all_trials_and_go_on_to_the_same_bits(tmp_path):
    # 22 steps' code at most once: not again for a schedule's rates, a partial batch, or another trial.
    config = settings(model="alexnet", image_size=64, limit=20, batch_size=8, epochs=2, step_size=1)
    images, how = datasets.load_dataset(config, tmp_path), ComputeSettings(compile=True)
    plain = ran(config, tmp_path)
    torch._dynamo.utils.counters.clear()
    whole, half = (loop.TrainingRun(config, images, CPU, compute_settings=how) for _ in range(2))
    first, second = whole.epochs()
    next(half.epochs())
    rest = loop.TrainingRun(config, images, CPU, compute_settings=how, state=half.state())
    (again,) = rest.epochs()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert (again.train_loss, again.accuracy) == (second.train_loss, second.accuracy)
    assert whole.weights().keys() == plain.weights().keys()
    # Its dropout draws other numbers than the plain one.
    assert first.train_loss == pytest.approx(plain.history[0].train_loss, rel=0.05)


def test_what_cannot_be_compiled_is_refused_in_one_line(monkeypatch):
    numerics.check_compile(settings(compile=True), CPU)
    with pytest.raises(DeviceError, match="cuda_graphs: cpu has none; leave it out, or"):
        numerics.check_compile(settings(cuda_graphs=True), CPU)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match="needs a C\\+\\+ compiler, and there is no 'no-such-compiler'"):
        numerics.check_compile(settings(compile=True), CPU)
    numerics.check_compile(settings(), CPU)


def test_the_processor_takes_a_half_precision_only_if_it_has_instructions_for_it(monkeypatch):
    for precision, name in (("bf16", "_is_mkldnn_bf16_supported"), ("fp16", "_is_mkldnn_fp16_supported")):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: True)
        numerics.check_precision(precision, CPU)
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: False)
        with pytest.raises(
            DeviceError, match=rf"train.precision: {precision} on cpu: this processor has no"
        ):
            numerics.check_precision(precision, CPU)
    with pytest.raises(DeviceError, match="tf32"):
        numerics.check_precision("tf32", CPU)
    numerics.check_precision("fp32", CPU)
    assert numerics.default_precision(CPU) == "fp32"


@pytest.mark.parametrize(
    ("capability", "fast"),
    [((9, 0), {"tf32", "bf16", "fp16"}), ((7, 5), {"fp16"}), ((6, 1), set())],
)
def test_a_gpu_takes_what_its_generation_computes_fast(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    gpu = torch.device("cuda:0")
    assert {each for each in ("tf32", "bf16", "fp16") if not numerics.precision_problem(each, gpu)} == fast
    assert numerics.default_precision(gpu) == ("tf32" if "tf32" in fast else "fp32")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"contiguous": 0.02, "channels_last": 0.01}, "channels_last"),
        ({"contiguous": 0.01, "channels_last": 0.01}, "contiguous"),
        ({"contiguous": 0.01, "channels_last": 0.02}, "contiguous"),
    ],
)
def test_the_format_that_wins_every_pair_of_steps_is_chosen(monkeypatch, seconds, chosen):
    now = [0.0]

    def step(name: str) -> None:
        now[0] += seconds[name]

    # A clock of its own: a loaded machine sleeps longer than it is told to.
    monkeypatch.setattr(numerics, "synchronized_time", lambda device: now[0])
    found, medians = numerics.faster_memory_format(step, CPU)
    assert found == chosen
    assert medians == pytest.approx(seconds)


def test_the_clock_goes_on_with_the_machines():
    started = numerics.synchronized_time(CPU)
    time.sleep(0.01)
    assert 0.01 <= numerics.synchronized_time(CPU) - started < 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "how",
    [
        *({"precision": name} for name in ("fp32", "tf32", "bf16", "fp16")),
        {"compile": True},
        {"cuda_graphs": True, "precision": "bf16"},
    ],
)
def test_every_precision_trains_on_a_gpu_and_compiled_steps_and_graphs_do(how, tmp_path):
    config = settings(limit=320, epochs=2, lr=0.01)
    run = loop.TrainingRun(
        config,
        datasets.load_dataset(config, tmp_path),
        torch.device("cuda"),
        compute_settings=ComputeSettings(**how),
    )
    first, second = run.epochs()
    assert second.train_loss < first.train_loss


ALLOCATING = """
import resource, sys, torch
from hpo.training import precision

if "keep" in sys.argv:
    precision.keep_freed_memory()
for _ in range(5):
    torch.empty(2**24).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.empty(2**24).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_is_kept_is_not_made_of_new_pages_at_each_step():
    def pages(*arguments: str) -> int:
        command = [sys.executable, "-c", ALLOCATING, *arguments]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert pages("keep") < pages() / 2, "of 5 times 64 MiB"
