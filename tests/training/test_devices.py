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
        ("2, 7, 2", ["GPU-cccc-3"]),  # CUDA stops at 7
        ("G", []),
        ("-1", []),
        (" ", []),
        ("nonsense", []),
        ("9" * 5000, []),
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


@pytest.mark.parametrize("variable", ["0,0", "1,GPU-aabb-2", "GPU-aab,1,0", "MIG-1,MIG-1"])
def test_a_gpu_that_is_named_twice_is_refused(variable):
    with pytest.raises(DeviceError, match=r"CUDA_VISIBLE_DEVICES=.* names a GPU twice, so CUDA shows none"):
        devices.visible_gpu_uuids({"CUDA_VISIBLE_DEVICES": variable}, UUIDS)


def test_auto_starts_no_more_workers_than_there_is_memory_for(monkeypatch):
    monkeypatch.setattr(devices, "installed_gpu_uuids", list)
    monkeypatch.setattr(devices, "core_count", lambda: 16)
    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 4_700_000_000)
    assert [worker.threads for worker in devices.worker_devices("auto", 1, 100)] == [5, 5, 5]
    assert len(devices.worker_devices("cpu:16", 1, 100)) == 16
    monkeypatch.setattr(devices, "free_memory_bytes", lambda: 0)
    assert len(devices.worker_devices("auto", 2, 100)) == 1


def test_free_memory_is_what_the_control_groups_leave(tmp_path, monkeypatch):
    machine = devices.free_memory_bytes()
    monkeypatch.setattr(devices, "CGROUP_ROOT", tmp_path)
    assert machine / 2 < devices.free_memory_bytes() < machine * 2, "no limit is readable"
    for name, text in (
        ("max", "3000000"),
        ("current", "2500000"),
        ("stat", "anon 5\ninactive_file 400000"),
    ):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    assert devices.free_memory_bytes() == 900_000
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.free_memory_bytes() > 900_000


def test_every_device_is_checked_however_few_workers_start(monkeypatch):
    monkeypatch.setattr(devices, "installed_gpu_uuids", lambda: UUIDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert len(devices.worker_devices("cuda:0,cuda:1", 1, 1)) == 1
    for spec in ("cuda:0,bogus", "cuda:0,cuda:7", "cuda:0,"):
        with pytest.raises(DeviceError, match="--devices"):
            devices.worker_devices(spec, 1, 1)


def test_too_many_workers_for_the_cores_are_refused(monkeypatch):
    monkeypatch.setattr(devices, "installed_gpu_uuids", lambda: UUIDS)
    monkeypatch.setattr(devices, "core_count", lambda: 2)
    assert len(devices.worker_devices("cpu:128", 1, 1000)) == 128
    for spec, per_device in (("cpu:129", 1), ("cpu", 129), ("cuda:0", 129), ("cpu:" + "9" * 5000, 1)):
        with pytest.raises(DeviceError, match="too many for 2 cores; want at most 128"):
            devices.worker_devices(spec, per_device, 1)


SPECS = [
    "",
    "tpu",
    "cpu:0",
    "cpu:-1",
    "cpu:x",
    "cuda",
    "cuda:x",
    "cuda:0,cpu",
    "cpu:100000",
    "cpu:" + "9" * 5000,
]


@pytest.mark.parametrize("spec", SPECS)
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
