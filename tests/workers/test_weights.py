"""Weights files: loadable by everyone, equal for equal weights, with the evaluation that chose them."""

from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch

from hpo.artifacts.folders import Artifacts
from hpo.training import datasets, loop
from hpo.training.config import Config
from hpo.training.confusion import HEADER_KEY, Confusion
from hpo.workers.weights import Weights

TENSORS = {"second": torch.arange(6.0).view(2, 3).t(), "first": torch.ones(3, dtype=torch.int64)}
CONFUSION = Confusion.from_matrix("valid", ["∆", 'a"b'], np.array([[3, 1], [0, 2]]))


def write(weights: Weights, root: Path) -> Path:
    return root / weights.write(Artifacts(str(root)).open_folder("study-0123abcd/0000"), 1)


def test_equal_weights_have_equal_files_with_the_matrix_in_the_header(tmp_path):
    files = [write(Weights(2, TENSORS, confusion=CONFUSION), tmp_path / str(n)) for n in range(10)]
    assert len({file.read_bytes() for file in files}) == 1
    loaded = safetensors.torch.load_file(files[0])
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    with safetensors.safe_open(files[0], "pt") as opened:
        metadata = opened.metadata()
    assert metadata["format"] == "pt"
    assert Confusion.model_validate_json(metadata[HEADER_KEY]) == CONFUSION


def test_a_file_without_a_matrix_is_what_the_library_writes(tmp_path):
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    expected = safetensors.torch.save(contiguous, {"format": "pt"})
    assert write(Weights(2, TENSORS), tmp_path).read_bytes() == expected


def test_weights_keep_the_matrix_of_their_own_epoch(tmp_path):
    config = Config(
        **{"dataset": "digits", "model": "shufflenet_v2_x0_5", "weights": "none", "limit": 64},
        **{"image_size": 32, "epochs": 2},
    )
    dataset = datasets.load_dataset(config, tmp_path)
    run = loop.TrainingRun(config, dataset, torch.device("cpu"))
    assert run.confusion is None
    copies = [Weights.copy_from(run) for _ in run.epochs()]
    labels = np.bincount(dataset.selection.labels, minlength=10).tolist()
    for epoch, weights in zip(run.history, copies, strict=True):
        assert weights.confusion is not None
        assert weights.confusion.split == "valid"
        assert weights.confusion.classes == dataset.classes
        matrix_KK = weights.confusion.matrix()
        assert matrix_KK.sum(1).tolist() == labels
        assert np.trace(matrix_KK) / matrix_KK.sum() == epoch.accuracy
