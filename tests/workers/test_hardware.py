"""What a trial ran on, where its attempts ran on several kinds of hardware."""

import json

from tests.support.databases import plain_sql
from tests.support.workplace import load

OWN = """
import os


def climb(config, state):
    state = state or {"epoch": 0}
    while state["epoch"] < config.epochs:
        if state["epoch"] == 1 and config.x > 0.5 and os.path.exists("broken"):
            raise RuntimeError("an error")
        state["epoch"] += 1
        yield config.x * state["epoch"] / 10, state
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 2
[search]
sampler = "grid"
[[points]]
x = 0.3
[[points]]
x = 0.9
"""


def test_a_trial_that_was_resumed_on_another_device_is_not_compared_by_time(place):
    (place.path / "broken").touch()
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    hardware = load(place).trials[1].user_attrs["hardware"]
    assert "earlier_devices" not in hardware
    sql = plain_sql(f"sqlite:///{place.path}/storage/hpo.db")
    sql(
        "UPDATE trial_user_attributes SET value_json = :changed WHERE key = 'hardware' AND trial_id = "
        "(SELECT trial_id FROM trials WHERE number = 1)",
        changed=json.dumps({**hardware, "device": "Abacus"}),
    )
    (place.path / "broken").unlink()
    place.here("retry", "small", "--failed")
    place.here("worker", "small")

    first, resumed = load(place).trials
    assert first.user_attrs["hardware"] == hardware
    assert resumed.user_attrs["hardware"] == {**hardware, "earlier_devices": "Abacus"}
    shown = f"{hardware['device']} (earlier attempts on Abacus)"
    assert f"hardware   {shown}, torch" in place.here("best", "small").out
    place.here("report", "small", "-o", "page.html", "--csv", "csv")
    for table in ("pareto", "device-time"):
        assert "Abacus" not in (place.path / f"csv/{table}.csv").read_text()
    assert (place.path / "csv/pareto.csv").read_text().count("\n") == 2
    assert shown in (place.path / "csv/trials.csv").read_text()
    note = "Trial 1 ran on several kinds of hardware, one after the other, and cannot be compared by time"
    assert (place.path / "page.html").read_text().count(note) == 1  # device time is divided by attempts
