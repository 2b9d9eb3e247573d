"""A trial's learning curves, epoch by epoch: a CSV file and TensorBoard events in its folder."""

import csv
import io
import itertools
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2  # the public module, api, imports TensorFlow
from tensorboard.summary.writer.record_writer import RecordWriter

from hpo.artifacts import durable
from hpo.training.events import Epoch
from hpo.training.metric import METRICS, Metric

CSV_NAME = "epochs.csv"
_file_numbers = itertools.count()  # of this process; they keep the names of its event files apart
# By the field of an epoch's record: its column.
CSV_COLUMNS = {field.name: field.name for field in fields(Epoch)} | {"number": "epoch"}
del CSV_COLUMNS["value"], CSV_COLUMNS["own_metrics"]  # they have columns under their metrics' names
CurveRow = Mapping[str, Any]  # a row of ``epochs.csv``, by column


def curve_rows(history: Sequence[Epoch], metric: Metric) -> list[CurveRow]:
    """Return the rows of a trial's curves, one for each epoch.

    Args:
        history: All epochs of the trial, from the first.
        metric: What their values are of.
    """
    return [
        {column: getattr(epoch, name) for name, column in CSV_COLUMNS.items()}
        | {metric.name: epoch.value}
        | dict(epoch.own_metrics)
        for epoch in history
    ]


def write_csv(folder: Path, rows: Sequence[CurveRow]) -> None:
    """Write the curves of all epochs durably to ``epochs.csv``, in place of an earlier file.

    Writing the whole file lets a resumed trial drop epochs that were never committed.

    Args:
        folder: The folder of the trial.
        rows: What ``curve_rows`` returns for all its epochs.

    Raises:
        OSError: If the file cannot be written.
    """
    _write(folder, rows)


def add_missing_epochs(folder: Path, reported: Mapping[int, float], metric: Metric) -> None:
    """Add committed epochs that a crash kept out of ``epochs.csv``; create the file if it is missing.

    Of these only the value is known; their other columns stay empty. If no epoch is missing, nothing is
    written.

    Args:
        folder: The folder of the trial.
        reported: By epoch, the values that the database has.
        metric: What they are of.

    Raises:
        OSError: If the file cannot be read or written.
    """
    path = folder / CSV_NAME
    rows = list(csv.DictReader(io.StringIO(path.read_text()))) if path.exists() else []
    present = {row.get("epoch") for row in rows}
    missing = [number for number in sorted(reported) if str(number) not in present]
    if missing:
        _write(folder, [*rows, *({"epoch": number, metric.name: reported[number]} for number in missing)])


def _write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    columns = dict.fromkeys([*CSV_COLUMNS.values(), *(name for row in rows for name in row if name)])
    writer = csv.DictWriter(text, list(columns), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    durable.write_file(folder / CSV_NAME, text.getvalue().encode())


class TensorBoardEvents:
    """The TensorBoard events of a trial, in a new file for each attempt.

    The name and the hyperparameters make the trial's row in TensorBoard's HPARAMS tab. TensorBoard collects
    the columns of all rows below its ``--logdir`` itself, so no file has to describe the whole study.

    Events are written in the caller's thread. TensorBoard's own writer has a thread, which prints a
    traceback when the disk is full or read-only.

    Args:
        folder: The folder of the trial.
        done: Epochs trained before, if the trial is resumed; TensorBoard drops later ones that
            earlier attempts wrote.
        name: The trial's name in the artifacts.
        params: The trial's hyperparameters; those that are None are left out.

    Raises:
        OSError: If the file cannot be written; from the methods, too.
    """

    def __init__(self, folder: Path, done: int, name: str, params: Mapping[str, Any]) -> None:
        now, host = int(time.time()), socket.gethostname()
        file = f"events.out.tfevents.{now:010d}.{host}.{os.getpid()}.{next(_file_numbers)}"
        self._records = RecordWriter((folder / file).open("wb"))
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))
        row = {key: value for key, value in params.items() if value is not None}
        self._write(Event(summary=summary_v2.hparams_pb(row, trial_id=name)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())

    def write_epoch(self, epoch: Epoch, best: Epoch, metric: Metric) -> None:
        """Write the scalars of an epoch, leaving out those that were not measured.

        All go into one event: with an event each, writing would take as long as training a head for an
        epoch.

        Args:
            epoch: The epoch.
            best: The best epoch so far, whose value is the trial's.
            metric: What the values of epochs are of.
        """
        tags = {
            "loss/train": epoch.train_loss,
            "accuracy/train": epoch.train_accuracy,
            **{f"{name}/selection": getattr(epoch, name) for name in METRICS},
            f"{metric.name}/selection": epoch.value,
            f"{metric.name}/best": best.value,
            "lr": epoch.lr,
            "seconds/train": epoch.train_seconds,
            "seconds/evaluation": epoch.evaluation_seconds,
            "images_per_second": epoch.images_per_second,
            **epoch.own_metrics,
        }
        values = [
            Summary.Value(tag=tag, simple_value=value) for tag, value in tags.items() if value is not None
        ]
        self._write(Event(summary=Summary(value=values), step=epoch.number))
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._records.close()
