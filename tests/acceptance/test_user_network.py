"""A network of the user's own in a worker that is killed, on a machine without it, and after a change."""

import os
import signal

from tests.support.processes import wait_for
from tests.support.workplace import artifact, load

OWN = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1))
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))

    def get_classifier(self):
        return self.fc


def net(num_classes):
    return Net(num_classes)
"""

STUDY = """
[train]
dataset = "digits"
image_size = 96
limit = 400
model = "own:net"
weights = "none"
epochs = 20
[search]
sampler = "grid"
[[points]]
lr = 0.05
"""


def result(place, name: str) -> tuple[list[float], bytes]:
    """Return the curve and the weights file of a study's one trial."""
    (trial,) = load(place, name).trials
    weights = artifact(place, trial.user_attrs["weights"]).read_bytes()
    return list(trial.intermediate_values.values()), weights


def test_a_killed_worker_is_resumed_with_the_same_bits_once_the_network_is_there_again(place):
    own = place.path / "own.py"
    file = place.study(STUDY)
    place.here("create", file)
    place.here("create", file, "--name", "whole")
    place.here("worker", "whole")

    worker = place.start("worker", "small")
    wait_for(lambda: load(place).trials[0].user_attrs.get("checkpoint"))
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()

    own.rename(place.path / "elsewhere")
    done = place.here("worker", "small", code=78)
    lost = f"hpo: train.model: 'own:net': no module 'own' in {place.path} or in the environment; want "
    assert lost in done.err
    own.write_text(OWN.replace("8", "12"))
    done = place.here("worker", "small", code=78)
    assert "train.model: 'own:net' returns another network than when the trial was saved (" in done.err
    (trial,) = load(place).trials
    assert trial.state.name == "WAITING"
    assert "failure" not in trial.user_attrs

    own.write_text(OWN)
    place.here("worker", "small")
    (trial,) = load(place).trials
    assert trial.user_attrs["attempts"] >= 2
    assert result(place, "small") == result(place, "whole")


def test_plan_run_finish_and_report_take_a_network_of_the_users_own(place):
    file = place.study(STUDY.replace("20", "2"))
    (part,) = place.here("plan", file, "--json").json()["parts"]
    assert part["epochs"] == 2
    place.here("create", file)
    place.here("worker", "small")
    final = place.here(
        "finish", "small", "--top", "1", "--seeds", "2", "--devices", "cpu:1", "--json"
    ).json()
    assert len(final["settings"]) == 1
    place.here("report", "small", "-o", "page.html")
    assert "own:net" in (place.path / "page.html").read_text()
