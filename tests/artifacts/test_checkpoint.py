import collections
import datetime
import io
import os
from typing import NamedTuple

import numpy as np
import pytest
import torch

from hpo.artifacts import checkpoint, durable


def state(epoch: int, step: int = 0) -> dict:
    return {"epoch": epoch, "step": step, "model": {"weight": torch.full((3, 4), float(epoch))}}


def flip_a_byte(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_saved_state_is_loaded(tmp_path):
    name = checkpoint.save(tmp_path, state(3, 7), attempt=2)
    assert name.startswith("checkpoint-0003-000007-002-")
    loaded = checkpoint.load(tmp_path / name)
    assert torch.equal(loaded["model"]["weight"], torch.full((3, 4), 3.0))
    assert os.listdir(tmp_path) == [name]


def test_the_same_state_has_the_same_name(tmp_path):
    assert checkpoint.save(tmp_path, state(1), attempt=1) == checkpoint.save(tmp_path, state(1), attempt=1)


def test_a_snapshot_does_not_change_with_the_live_state(tmp_path):
    layer = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    live = {"model": layer.state_dict(), "own": {"seen": [1], "pair": (torch.zeros(1), {2})}}
    snapshot = checkpoint.snapshot(live)
    before = layer[0].weight.detach().clone()
    with torch.no_grad():
        layer[0].weight += 1
    live["own"]["seen"].append(2)
    live["own"]["pair"][0].add_(1)
    live["own"]["pair"][1].add(3)
    assert torch.equal(snapshot["model"]["0.weight"], before)
    assert snapshot["own"] == {"seen": [1], "pair": (torch.zeros(1), {2})}
    assert snapshot["model"]._metadata == layer.state_dict()._metadata


def test_numpy_scalars_are_saved_as_python_values(tmp_path):
    seen = [(np.bool_(True), {np.float32(0.25)})]
    own = {np.int64(3): np.float64(0.5), "seen": seen, "text": np.str_("a")}
    live = state(1) | {"own": own, "counts": collections.Counter("aab")}
    name = checkpoint.save(tmp_path, checkpoint.snapshot(live), attempt=1, objective="own:climb")
    loaded = checkpoint.load(tmp_path / name)
    assert loaded["own"] == {3: 0.5, "seen": [(True, {0.25})], "text": "a"}
    assert loaded["counts"] == {"a": 2, "b": 1}


class Scores(NamedTuple):
    accuracy: float


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([np.zeros(3)], "state[0] is a numpy.ndarray"),
        ({"a": {"best": (1, datetime.timedelta(1))}}, "state['a']['best'][1] is a datetime.timedelta"),
        ({"net": torch.nn.Linear(1, 1)}, "state['net'] is a torch.nn.modules.linear.Linear"),
        ({"call": lambda: 0}, "state['call'] is a builtins.function"),
        ({"a": Scores(0.1), "b": torch.zeros(1)}, f"state['a'] is a {__name__}.Scores"),
        ({datetime.date(2026, 1, 2): 0}, "state[datetime.date(2026, 1, 2)] is a datetime.date"),
    ],
)
def test_a_state_that_could_not_be_loaded_is_refused_when_saved(tmp_path, value, named):
    with pytest.raises(TypeError) as caught:
        checkpoint.save(tmp_path, state(1) | {"own": value}, attempt=1, objective="own:climb")
    problem, _, wanted = str(caught.value).partition("; want ")
    assert problem == f"own:climb yielded a state that could not be loaded again: {named}"
    assert wanted.startswith(
        "tensors (torch.as_tensor(x)), numbers (float(x) or x.item()), texts, None, and"
    )
    assert os.listdir(tmp_path) == []


def test_a_flipped_byte_is_detected_and_the_previous_checkpoint_is_used(tmp_path):
    older = checkpoint.save(tmp_path, state(1), attempt=1)
    newer = checkpoint.save(tmp_path, state(2), attempt=1)
    flip_a_byte(tmp_path / newer)
    assert checkpoint.load(tmp_path / newer) is None
    assert checkpoint.load_latest(tmp_path, newer)["epoch"] == 1
    flip_a_byte(tmp_path / older)
    assert checkpoint.load_latest(tmp_path, newer) is None


def test_a_truncated_or_missing_checkpoint_is_replaced_by_the_previous_one(tmp_path):
    checkpoint.save(tmp_path, state(1), attempt=1)
    newer = checkpoint.save(tmp_path, state(2), attempt=1)
    os.truncate(tmp_path / newer, 100)
    assert checkpoint.load_latest(tmp_path, newer)["epoch"] == 1
    (tmp_path / newer).unlink()
    assert checkpoint.load_latest(tmp_path, newer)["epoch"] == 1


def test_a_newer_file_that_was_never_committed_is_not_used(tmp_path):
    committed = checkpoint.save(tmp_path, state(1), attempt=1)
    checkpoint.save(tmp_path, state(2), attempt=1)
    assert checkpoint.load_latest(tmp_path, committed)["epoch"] == 1
    assert checkpoint.load_latest(tmp_path, None) is None


def test_two_checkpoints_are_kept(tmp_path):
    names = [checkpoint.save(tmp_path, state(epoch), attempt=1) for epoch in (1, 2, 3)]
    uncommitted = checkpoint.save(tmp_path, state(9), attempt=1)
    checkpoint.prune(tmp_path, names[2])
    assert checkpoint.list_checkpoints(tmp_path) == names[1:]
    assert not (tmp_path / uncommitted).exists()
    checkpoint.prune(tmp_path, names[1])
    assert checkpoint.list_checkpoints(tmp_path) == [names[1]]


def test_an_older_attempt_removes_no_file_of_a_newer_one(tmp_path):
    first_attempt = [checkpoint.save(tmp_path, state(epoch), attempt=1) for epoch in (1, 2, 3)]
    within = checkpoint.save(tmp_path, state(2, 7), attempt=2)  # the last of attempt 1 was damaged
    second_attempt = [checkpoint.save(tmp_path, state(epoch), attempt=2) for epoch in (4, 5)]
    checkpoint.prune(tmp_path, first_attempt[2])
    assert checkpoint.list_checkpoints(tmp_path) == [
        first_attempt[1],
        within,
        first_attempt[2],
        *second_attempt,
    ]
    checkpoint.prune(tmp_path, second_attempt[1])
    assert checkpoint.list_checkpoints(tmp_path) == second_attempt


def test_an_older_attempt_cannot_overwrite_a_newer_ones_file(tmp_path):
    newer = checkpoint.save(tmp_path, state(2), attempt=2)
    older = checkpoint.save(tmp_path, state(2), attempt=1)
    assert newer != older
    assert checkpoint.load_latest(tmp_path, newer)["epoch"] == 2


def test_a_failed_write_keeps_the_old_file(tmp_path):
    durable.write_file(tmp_path / "a", b"before")

    def fail_half_way() -> None:
        with durable.atomic_file(tmp_path) as draft:
            draft.name = "a"
            draft.file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail_half_way()
    assert (tmp_path / "a").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_during_a_save_is_reported(tmp_path):
    class Full(io.BytesIO):
        def write(self, data) -> int:
            if self.tell() + len(data) > 2000:
                raise OSError(28, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space left"):
        checkpoint.dump_state({"weight": torch.zeros(10_000)}, Full())


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "created"),))

    name = checkpoint.save(tmp_path, state(1) | {"model": Malicious()}, attempt=1)
    with pytest.raises(Exception, match=r"[Ww]eights"):
        checkpoint.load(tmp_path / name)
    assert not (tmp_path / "created").exists()
