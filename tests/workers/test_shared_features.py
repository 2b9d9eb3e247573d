"""Workers share the features of frozen layers."""

import os

import safetensors.torch

STUDY = """
[train]
dataset = "digits"
image_size = 32
limit = 96
weights = "none"
model = "resnet18"
tune = "head"
epochs = 3

[space]
lr = [0.01, 0.02, 0.03, 0.04]

[search]
sampler = "grid"
"""


def test_workers_share_features_and_deleting_a_study_keeps_them(workplace):
    workplace.hpo("run", workplace.study(STUDY, "one"), "--devices", "cpu:2")
    folder = workplace.path / "storage/artifacts/cache/features"
    stored = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert len(stored) == 2
    first = workplace.here("trials", "one", "--json").json()
    assert "unknown in" not in workplace.here("doctor", code=None).out
    workplace.here("delete", "one", "--yes")
    workplace.here("create", workplace.study(STUDY, "two"))
    workplace.here("worker", "two")
    again = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    assert again == stored
    second = workplace.here("trials", "two", "--json").json()

    def by_setting(trials):
        return {trial["params"]["lr"]: trial["intermediate_values"] for trial in trials}

    assert len(by_setting(first)) == 4
    assert by_setting(first) == by_setting(second)
    for trial in second:
        weights = safetensors.torch.load_file(
            workplace.path / "storage/artifacts" / trial["user_attrs"]["weights"]
        )
        assert "layer1.0.conv1.weight" in weights
        assert os.path.getsize(workplace.path / "storage/artifacts" / trial["user_attrs"]["weights"]) > 4e7
