"""Recorded curves: their file, and the surrogate that resembles them."""

import itertools
import math
from pathlib import Path

import pytest
from sklearn.ensemble import RandomForestRegressor

from hpo.analysis import recorded_curves
from hpo.analysis.surrogate import TREES, Surrogate
from hpo.errors import CurvesError
from hpo.study.space import Setting
from tests.support.curve_file import EPOCHS, write_curve_file

RECORDED = Path(__file__).parents[2] / "benchmarks" / "curves.csv"


def test_a_file_defines_its_space_with_conditions(tmp_path):
    recorded = recorded_curves.read_curves(write_curve_file(tmp_path / "curves.csv"))
    x, optimizer, momentum = recorded.definition.space
    assert (x.kind, optimizer.kind, momentum.kind) == ("float", "choice", "float")
    assert set(optimizer.values.choices) == {"sgd", "adam"}
    assert momentum.condition() == {"optimizer": ("sgd",)}
    assert (len(recorded.curves), recorded.epochs) == (60, EPOCHS)
    assert recorded.curves[0].total_seconds == 18


def test_written_curves_are_read_back(tmp_path):
    first = recorded_curves.read_curves(write_curve_file(tmp_path / "curves.csv"))
    recorded_curves.write_curves(first, tmp_path / "again.csv")
    again = recorded_curves.read_curves(tmp_path / "again.csv")
    assert (again.settings, again.curves) == (first.settings, first.curves)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seconds", "secs"), "found 'x, optimizer, momentum, secs, 1"),
        ((",1,2,", ",1,32,"), "then 1, 2, ... for the accuracy"),
        ((",18,", ",long,"), "curves.csv:2: seconds: want a finite number, found 'long'"),
        ((",18,", ",1e308,"), "curves.csv:2: seconds: want a finite number, found '1e308'"),
        ((",18,", ",-1,"), "curves.csv:2: seconds: want 0 or more, found -1"),
        ((",18,", ",18,0.5,"), "curves.csv:2: want 13 fields, as in line 1; found 14"),
        ((",18,", ","), "curves.csv:2: want 13 fields, as in line 1; found 12"),
        (("optimizer,", "x,"), "curves.csv:1: column 'x' is there twice"),
        (("optimizer,", ","), "curves.csv:1: want a name for each column"),
    ],
)
def test_an_invalid_file_is_reported_in_one_line(tmp_path, change, message):
    path = write_curve_file(tmp_path / "curves.csv")
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(CurvesError, match=message.replace(".", r"\.")):
        recorded_curves.read_curves(path)


def test_a_file_that_is_empty_or_no_text_is_reported_and_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "curves.csv"
    for content, message in (
        (b"", "found nothing"),
        (b"\xff\xfe\x00", "is not text in UTF-8; want a CSV file"),
        (b'x,seconds,1\n"', ":2: unexpected end of data; want a CSV file"),
        (b"x,seconds,1\n" + b"a" * 200_000, ":2: field larger than field limit"),
    ):
        path.write_bytes(content)
        with pytest.raises(CurvesError) as error:
            recorded_curves.read_curves(path)
        assert message in str(error.value)
    write_curve_file(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert recorded_curves.read_curves(path).definition.space[0].name == "x"


def test_too_few_rows_and_a_missing_file_are_reported_in_one_line(tmp_path):
    with pytest.raises(CurvesError, match="3 settings; want 10 or more"):
        recorded_curves.read_curves(write_curve_file(tmp_path / "curves.csv", rows=3))
    with pytest.raises(CurvesError, match=r"none\.csv: No such file"):
        recorded_curves.read_curves(tmp_path / "none.csv")


def test_a_recorded_setting_has_its_curve_and_others_resemble_their_neighbours(surrogate):
    for setting, curve in zip(surrogate.recorded.settings, surrogate.recorded.curves, strict=True):
        assert surrogate.predict_curve(setting) == curve
    near = surrogate.predict_curve({"x": 0.7001, "optimizer": "sgd", "momentum": 0.5})
    far = surrogate.predict_curve({"x": 0.05, "optimizer": "adam"})
    assert max(near.values) > 0.85
    assert max(far.values) < 0.55
    assert near.total_seconds == far.total_seconds == pytest.approx(18)
    assert surrogate.explained_variance > 0.9
    assert surrogate.best_value == pytest.approx(0.9 - 0.3 / EPOCHS, abs=0.01)


def encode(surrogate: Surrogate, setting: Setting) -> list[float]:
    """Return a setting as features: positions in ranges from 0 to 1, and a 0 or 1 for each choice."""
    x, optimizer, momentum = (parameter.values for parameter in surrogate.recorded.definition.space)
    assert (x.log, momentum.log) == (True, False)
    position = math.log(setting["x"] / x.low) / math.log(x.high / x.low)
    chosen = [float(setting["optimizer"] == choice) for choice in optimizer.choices]
    if "momentum" not in setting:
        return [position, *chosen, -1.0]
    return [position, *chosen, (setting["momentum"] - momentum.low) / (momentum.high - momentum.low)]


def test_the_curve_of_a_setting_is_the_prediction_of_a_random_forest(surrogate):
    setting = {"x": 0.123, "optimizer": "sgd", "momentum": 0.4}
    targets = [[*curve.values, curve.total_seconds] for curve in surrogate.recorded.curves]
    forest = RandomForestRegressor(TREES, random_state=0)
    forest.fit([encode(surrogate, each) for each in surrogate.recorded.settings], targets)
    expected = forest.predict([encode(surrogate, setting)])[0]
    curve = surrogate.predict_curve(setting)
    assert [*curve.values, curve.total_seconds] == pytest.approx(list(expected), abs=1e-9)


def test_the_shipped_curves_are_whole_and_valid():
    recorded = recorded_curves.read_curves(RECORDED)
    assert len(recorded.curves) >= 150
    assert recorded.epochs == 20
    assert {each.name for each in recorded.definition.space} >= {"model", "optimizer", "lr", "momentum"}
    momentum = next(each for each in recorded.definition.space if each.name == "momentum")
    assert momentum.condition() == {"optimizer": ("sgd",)}
    accuracies = list(itertools.chain.from_iterable(curve.values for curve in recorded.curves))
    assert all(0 <= accuracy <= 1 and math.isfinite(accuracy) for accuracy in accuracies)
