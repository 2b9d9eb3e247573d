"""The TensorBoard events and the CSV file in a trial's folder."""

import resource

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from hpo.training.events import Epoch
from hpo.training.metric import METRICS
from hpo.workers import metrics
from hpo.workers.metrics import TensorBoardEvents

ACCURACY = METRICS["accuracy"]
PARAMS = {"lr": 0.25, "batch_size": 16, "optimizer": "sgd", "nesterov": True, "dropout": None}


def epoch(number: int, accuracy: float) -> Epoch:
    return Epoch(number=number, value=accuracy, accuracy=accuracy, train_seconds=1.0)


def test_a_resumed_trial_is_one_row_of_hyperparameters_with_its_accuracy_as_a_metric(tmp_path):
    first = TensorBoardEvents(tmp_path, 0, "study-1/0003", PARAMS)
    for each in (epoch(1, 0.5), epoch(2, 0.375)):
        first.write_epoch(each, epoch(1, 0.5), ACCURACY)
    first.close()
    # The first attempt was killed before epoch 2 was committed.
    second = TensorBoardEvents(tmp_path, 1, "study-1/0003", PARAMS)
    for each, best in ((epoch(2, 0.25), epoch(1, 0.5)), (epoch(3, 0.125), epoch(1, 0.5))):
        second.write_epoch(each, best, ACCURACY)
    second.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    content = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    row = metadata.parse_session_start_info_plugin_data(content)
    assert row.group_name == "study-1/0003"
    assert row.hparams["lr"].number_value == 0.25
    assert row.hparams["batch_size"].number_value == 16
    assert row.hparams["optimizer"].string_value == "sgd"
    assert row.hparams["nesterov"].bool_value is True
    assert set(row.hparams) == {"lr", "batch_size", "optimizer", "nesterov"}
    assert [(e.step, e.value) for e in found.Scalars("accuracy/selection")] == [
        (1, 0.5),
        (2, 0.25),
        (3, 0.125),
    ]
    assert found.Scalars("accuracy/best")[-1].value == 0.5


def test_a_trial_that_starts_again_from_its_first_epoch_has_each_epoch_once(tmp_path):
    for values in ((0.5, 0.375), (0.25, 0.125)):
        events = TensorBoardEvents(tmp_path, 0, "study-1/0003", PARAMS)
        for number, accuracy in enumerate(values, 1):
            events.write_epoch(epoch(number, accuracy), epoch(1, accuracy), ACCURACY)
        events.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("accuracy/selection")] == [(1, 0.25), (2, 0.125)]
    assert found.SummaryMetadata(metadata.SESSION_START_INFO_TAG)


def test_events_that_cannot_be_written_raise_in_the_thread_that_writes_them(tmp_path, capfd):
    """TensorBoard's own writer prints a traceback from a thread, too."""
    events = TensorBoardEvents(tmp_path, 0, "study-1/0003", PARAMS)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # bytes of a file
    try:
        with pytest.raises(OSError, match="File too large"):
            events.write_epoch(epoch(1, 0.5), epoch(1, 0.5), ACCURACY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    events.close()
    assert capfd.readouterr().err == ""


def test_epochs_missing_from_the_csv_after_a_crash_are_added_from_the_reports(tmp_path):
    metrics.add_missing_epochs(tmp_path, {1: 0.5}, ACCURACY)
    metrics.write_csv(tmp_path, metrics.curve_rows([epoch(1, 0.5), epoch(2, 0.375)], ACCURACY))
    whole = (tmp_path / "epochs.csv").read_text().splitlines()
    metrics.add_missing_epochs(tmp_path, {1: 0.5, 2: 0.375}, ACCURACY)
    assert (tmp_path / "epochs.csv").read_text().splitlines() == whole
    metrics.add_missing_epochs(tmp_path, {1: 0.5, 2: 0.375, 3: 0.25}, ACCURACY)
    third = "3,0.25" + "," * (len(metrics.CSV_COLUMNS) - 2)
    assert (tmp_path / "epochs.csv").read_text().splitlines() == [*whole, third]
