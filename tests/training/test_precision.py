"""Precision and memory format: what a device supports, and how they change a run."""

import subprocess
import sys
import time

import pytest
import torch

from hpo.errors import DeviceError
from hpo.training import datasets, loop, precision
from hpo.training.config import Config
from hpo.training.precision import ComputeSettings

CPU = torch.device("cpu")


def settings(**options) -> Config:
    small = {"dataset": "digits", "image_size": 32, "weights": "none", "limit": 64, "epochs": 1}
    return Config(**(small | options))


def finished_run(config: Config, tmp_path, **options) -> loop.TrainingRun:
    images = datasets.load_dataset(config, tmp_path)
    run = loop.TrainingRun(config, images, CPU, compute_settings=ComputeSettings(**options))
    list(run.epochs())
    return run


def test_channels_last_gives_the_same_losses_within_float_tolerance(tmp_path):
    plain, last = (
        finished_run(settings(limit=32), tmp_path, memory_format=name) for name in precision.MEMORY_FORMATS
    )
    # Batch norm over one pixel of 16 images amplifies rounding errors.
    assert last.history[0].train_loss == pytest.approx(plain.history[0].train_loss, rel=5e-3)
    weights = last.model.conv1.weight
    assert weights.is_contiguous(memory_format=torch.channels_last)
    assert not weights.is_contiguous()


def test_bf16_computes_in_bfloat16_and_keeps_weights_in_float32(tmp_path):
    dtypes = []

    def record_dtype(module, inputs, output):
        dtypes.append(output.dtype)

    config = settings(limit=16)
    images = datasets.load_dataset(config, tmp_path)
    run = loop.TrainingRun(config, images, CPU, compute_settings=ComputeSettings(precision="bf16"))
    run.model.conv1.register_forward_hook(record_dtype)
    (epoch,) = run.epochs()
    assert set(dtypes) == {torch.bfloat16}
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    plain = finished_run(config, tmp_path)
    assert epoch.train_loss == pytest.approx(plain.history[0].train_loss, rel=0.05)


def test_a_resumed_fp16_run_keeps_its_loss_scale(tmp_path):
    # Processors without instructions for fp16 need a small model.
    config = settings(model="shufflenet_v2_x0_5", limit=16, batch_size=8, epochs=2)
    images = datasets.load_dataset(config, tmp_path)
    compute_settings = ComputeSettings(precision="fp16")
    whole = loop.TrainingRun(config, images, CPU, compute_settings=compute_settings)
    first, second = whole.epochs()
    first_run = loop.TrainingRun(config, images, CPU, compute_settings=compute_settings)
    next(first_run.epochs())
    resumed = loop.TrainingRun(
        config, images, CPU, compute_settings=compute_settings, state=first_run.state()
    )
    assert resumed.updates.scaler.get_scale() == first_run.updates.scaler.get_scale()
    (again,) = resumed.epochs()
    assert again.train_loss == second.train_loss
    assert first_run.history[0].train_loss == first.train_loss


@pytest.mark.slow
@pytest.mark.processes
def test_compiled_steps_are_reused_by_all_trials_and_resume_bit_identically(tmp_path):
    # The step is compiled once: not again for another learning rate, a partial batch, or another trial.
    config = settings(model="alexnet", image_size=64, limit=20, batch_size=8, epochs=2, step_size=1)
    images, compute_settings = datasets.load_dataset(config, tmp_path), ComputeSettings(compile=True)
    plain = finished_run(config, tmp_path)
    torch._dynamo.utils.counters.clear()
    whole, first_run = (
        loop.TrainingRun(config, images, CPU, compute_settings=compute_settings) for _ in range(2)
    )
    first, second = whole.epochs()
    next(first_run.epochs())
    resumed = loop.TrainingRun(
        config, images, CPU, compute_settings=compute_settings, state=first_run.state()
    )
    (again,) = resumed.epochs()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert (again.train_loss, again.accuracy) == (second.train_loss, second.accuracy)
    assert whole.weights().keys() == plain.weights().keys()
    # Dropout of a compiled model draws other random numbers.
    assert first.train_loss == pytest.approx(plain.history[0].train_loss, rel=0.05)


def test_compilation_that_is_not_possible_is_refused(monkeypatch):
    precision.check_compile(settings(compile=True), CPU)
    with pytest.raises(DeviceError, match="cuda_graphs: cpu has none; leave it out, or"):
        precision.check_compile(settings(cuda_graphs=True), CPU)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DeviceError, match="needs a C\\+\\+ compiler, and there is no 'no-such-compiler'"):
        precision.check_compile(settings(compile=True), CPU)
    with pytest.raises(DeviceError, match=r"^train.cuda_graphs: torch.compile needs"):
        precision.check_compile(settings(cuda_graphs=True), torch.device("cuda"))
    precision.check_compile(settings(), CPU)


def test_a_cpu_accepts_half_precision_only_with_instructions_for_it(monkeypatch):
    for half_precision, name in (
        ("bf16", "_is_mkldnn_bf16_supported"),
        ("fp16", "_is_mkldnn_fp16_supported"),
    ):
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: True)
        precision.check_precision(half_precision, CPU)
        monkeypatch.setattr(torch.ops.mkldnn, name, lambda: False)
        with pytest.raises(
            DeviceError, match=rf"train.precision: {half_precision} on cpu: this processor has no"
        ):
            precision.check_precision(half_precision, CPU)
    with pytest.raises(DeviceError, match="tf32"):
        precision.check_precision("tf32", CPU)
    precision.check_precision("fp32", CPU)
    assert precision.default_precision(CPU) == "fp32"


@pytest.mark.parametrize(
    ("capability", "fast"),
    [((9, 0), {"tf32", "bf16", "fp16"}), ((7, 5), {"fp16"}), ((6, 1), set())],
)
def test_a_gpu_accepts_the_precisions_that_its_generation_computes_fast(monkeypatch, capability, fast):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    gpu = torch.device("cuda:0")
    assert {each for each in ("tf32", "bf16", "fp16") if not precision.precision_problem(each, gpu)} == fast
    assert precision.default_precision(gpu) == ("tf32" if "tf32" in fast else "fp32")


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"contiguous": 0.02, "channels_last": 0.01}, "channels_last"),
        ({"contiguous": 0.01, "channels_last": 0.01}, "contiguous"),
        ({"contiguous": 0.01, "channels_last": 0.02}, "contiguous"),
    ],
)
def test_the_memory_format_that_wins_every_pair_of_steps_is_chosen(monkeypatch, seconds, chosen):
    now = [0.0]

    def step(name: str) -> None:
        now[0] += seconds[name]

    # A fake clock: a loaded machine sleeps longer than requested.
    monkeypatch.setattr(precision, "synchronized_time", lambda device: now[0])
    found, medians = precision.faster_memory_format(step, CPU)
    assert found == chosen
    assert medians == pytest.approx(seconds)


def test_synchronized_time_advances_with_the_machines_clock():
    started = precision.synchronized_time(CPU)
    time.sleep(0.01)
    assert 0.01 <= precision.synchronized_time(CPU) - started < 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "options",
    [
        *({"precision": name} for name in ("fp32", "tf32", "bf16", "fp16")),
        {"compile": True},
        {"cuda_graphs": True, "precision": "bf16"},
    ],
)
@pytest.mark.parametrize(
    "controls",
    [{}, {"accumulate_steps": 2, "clip_grad_norm": 1.0, "ema_decay": 0.5, "freeze_epochs": 1}],
)
def test_every_precision_compiled_steps_and_graphs_train_on_a_gpu(controls, options, tmp_path):
    config = settings(limit=320, epochs=2, lr=0.01, **controls)
    run = loop.TrainingRun(
        config,
        datasets.load_dataset(config, tmp_path),
        torch.device("cuda"),
        compute_settings=ComputeSettings(**options),
    )
    first, second = run.epochs()
    assert second.train_loss < first.train_loss


ALLOCATING = """
import resource, sys, torch
from hpo.training import precision

if "keep" in sys.argv:
    precision.keep_freed_memory()
for _ in range(20):  # until the heap has a block that fits: after 2 to 8 times
    torch.empty(2**24).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.empty(2**24).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_keep_freed_memory_avoids_new_pages_at_each_step():
    def pages(*arguments: str) -> int:
        command = [sys.executable, "-c", ALLOCATING, *arguments]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert pages("keep") < pages() / 2, "of 5 times 64 MiB"
