import resource
import sys

import psutil
import pynvml
import pytest

from hpo.errors import DeviceError
from hpo.training import devices

UUIDS = ["GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3"]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, UUIDS),
        ("0,2", ["GPU-aaaa-1", "GPU-cccc-3"]),
        ("2, 0", ["GPU-cccc-3", "GPU-aaaa-1"]),
        ("GPU-cccc-3,GPU-aab", ["GPU-cccc-3", "GPU-aabb-2"]),
        ("GPU-aa", []),  # a prefix of two UUIDs
        ("0,7,1", ["GPU-aaaa-1"]),
        ("0,-1,1", ["GPU-aaaa-1"]),
        ("", []),
        ("MIG-1234", ["MIG-1234"]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(variable, expected):
    environment = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert devices.visible_gpu_uuids(environment, UUIDS) == expected


def test_the_peak_memory_is_in_bytes_on_every_system(monkeypatch):
    resident = psutil.Process().memory_info().rss
    assert resident * 0.9 < devices.peak_memory_bytes() < devices.memory_bytes()
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    monkeypatch.setattr(sys, "platform", "freebsd14")
    assert kib * 1024 <= devices.peak_memory_bytes() < devices.memory_bytes()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kib <= devices.peak_memory_bytes() < kib * 2, "macOS gives getrusage's value in bytes"


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_broken_driver_is_reported_and_none_at_all_means_no_gpu(monkeypatch, call):
    for name in ("nvmlInit", "nvmlShutdown"):
        monkeypatch.setattr(pynvml, name, lambda: None)

    def fail(code):
        def failing():
            raise pynvml.NVMLError(code)

        monkeypatch.setattr(pynvml, call, failing)

    fail(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    assert devices.installed_gpu_uuids() == []
    fail(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    for spec in ("auto", "cuda:0"):
        with pytest.raises(DeviceError, match=r"cannot read the GPUs: .*; .*--devices cpu works"):
            devices.worker_devices(spec, 1, 1)
    assert [each.name for each in devices.worker_devices("cpu", 1, 1)] == ["cpu"]


def test_cores_are_divided_among_cpu_workers():
    cores = devices.core_count()
    (single,) = devices.worker_devices("cpu", 1, 100)
    assert (single.device, single.threads, single.cuda_visible_devices) == ("cpu", cores, None)
    assert [worker.threads for worker in devices.worker_devices(f"cpu:{cores}", 1, 100)] == [1] * cores
    assert len(devices.worker_devices("cpu", 3, 100)) == 3


def test_no_more_workers_are_started_than_trials_are_left():
    assert len(devices.worker_devices("cpu:8", 1, 2)) == 2
    assert len(devices.worker_devices("cpu:8", 1, 0)) == 1


@pytest.mark.parametrize("spec", ["", "tpu", "cpu:0", "cpu:-1", "cpu:x", "cuda", "cuda:x", "cuda:0,cpu"])
def test_an_invalid_device_spec_is_refused(spec):
    with pytest.raises(DeviceError, match="--devices"):
        devices.worker_devices(spec, 1, 9)


def test_a_worker_on_a_gpu_sees_only_that_gpu(monkeypatch):
    import pynvml

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", lambda handle: UUIDS[handle].encode())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    workers = devices.worker_devices("auto", 2, 100)
    assert [worker.name for worker in workers] == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]
    assert [worker.cuda_visible_devices for worker in workers] == ["GPU-cccc-3"] * 2 + ["GPU-aaaa-1"] * 2
    assert {worker.device for worker in workers} == {"cuda:0"}
    with pytest.raises(DeviceError, match="there are 2 GPUs"):
        devices.worker_devices("cuda:2", 1, 100)
