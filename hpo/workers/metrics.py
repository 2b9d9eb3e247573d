"""A trial's curves, epoch by epoch: a CSV file and TensorBoard events in its folder."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2  # its public face, api, imports TensorFlow
from torch.utils.tensorboard import SummaryWriter

from hpo.artifacts import durable
from hpo.training.events import Epoch

CSV_NAME = "epochs.csv"
CSV_COLUMNS = {field.name: field.name for field in fields(Epoch)} | {
    "number": "epoch"
}  # by a record's names


def write_csv(folder: Path, history: Sequence[Epoch]) -> None:
    """Write the whole history durably; a trial taken up again so drops epochs that never counted."""
    rows = [{column: getattr(epoch, name) for name, column in CSV_COLUMNS.items()} for epoch in history]
    _write(folder, rows)


def add_missing_epochs(folder: Path, reported: Mapping[int, float]) -> None:
    """Add the reported epochs that a crash kept out of the CSV, with all that is known: their accuracy."""
    path = folder / CSV_NAME
    rows = list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []
    there = {row.get("epoch") for row in rows}
    lacking = [number for number in sorted(reported) if str(number) not in there]
    if lacking:
        _write(folder, [*rows, *({"epoch": number, "accuracy": reported[number]} for number in lacking)])


def _write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(CSV_COLUMNS.values()), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    durable.write_file(folder / CSV_NAME, text.getvalue().encode())


class TensorBoardEvents:
    """TensorBoard events; on going on after epoch ``done``, what came after it is taken back.

    ``params`` and ``name``, the trial's in the artifacts, make its row in TensorBoard's HPARAMS tab, which
    gathers the columns of all rows below its ``--logdir`` by itself: no file has to know the whole study.
    """

    def __init__(self, folder: Path, done: int, name: str, params: Mapping[str, Any]) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)
        self._file = self.writer._get_file_writer()  # type: ignore[no-untyped-call]  # torch has not annotated it
        row = {key: value for key, value in params.items() if value is not None}
        self._file.add_summary(summary_v2.hparams_pb(row, trial_id=name))

    def write_epoch(self, epoch: Epoch, best: Epoch) -> None:
        """Write an epoch's scalars, and the accuracy of the best epoch so far, which is a trial's value.

        All are one event: an event each would take a head's epoch as long as its training.
        """
        tags = {
            "loss/train": epoch.train_loss,
            "loss/selection": epoch.loss,
            "accuracy/train": epoch.train_accuracy,
            "accuracy/selection": epoch.accuracy,
            "accuracy/best": best.accuracy,
            "lr": epoch.lr,
            "seconds/train": epoch.train_seconds,
            "seconds/evaluation": epoch.evaluation_seconds,
            "images_per_second": epoch.images_per_second,
        }
        values = [
            Summary.Value(tag=tag, simple_value=value) for tag, value in tags.items() if value is not None
        ]
        self._file.add_summary(Summary(value=values), epoch.number)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()
