"""A trial's curves, epoch by epoch: a CSV file and TensorBoard events in its folder."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from hpo import files
from hpo.events import Epoch

CSV = "epochs.csv"
COLUMNS = {"number": "epoch"}  # the record's name -> the column's, where they differ


def write_csv(folder: Path, history: Sequence[Epoch]) -> None:
    """Write the whole history durably; a trial taken up again so drops epochs that never counted."""
    text = io.StringIO()
    names = [field.name for field in fields(Epoch)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([COLUMNS.get(name, name) for name in names])
    writer.writerows([asdict(epoch)[name] for name in names] for epoch in history)
    files.write(folder / CSV, text.getvalue().encode())


class Events:
    """TensorBoard events; on going on after epoch ``done``, what came after it is taken back."""

    def __init__(self, folder: Path, done: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=done + 1 if done else None)

    def write(self, epoch: Epoch) -> None:
        """Write an epoch's scalars."""
        tags = {
            "loss/train": epoch.train_loss,
            "loss/selection": epoch.loss,
            "accuracy/train": epoch.train_accuracy,
            "accuracy/selection": epoch.accuracy,
            "lr": epoch.lr,
            "seconds/train": epoch.train_seconds,
            "seconds/evaluation": epoch.evaluation_seconds,
            "images_per_second": epoch.images_per_second,
        }
        for tag, value in tags.items():
            if value is not None:
                self.writer.add_scalar(tag, value, epoch.number)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()
