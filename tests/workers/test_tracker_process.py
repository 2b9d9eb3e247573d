"""What a tracker does not take is sent again, in one piece with what is new."""

import io
from dataclasses import replace

from hpo.workers.tracker_process import MAX_WAITING, Outbox, read_records, send_all
from hpo.workers.trackers import TrackedTrial, describe_error


class RecordingTracker:
    """A tracker that refuses some calls, and keeps what it gets."""

    def __init__(self, refused=0):
        self.refused = refused
        self.got = []

    def send(self, trial):
        if self.refused:
            self.refused -= 1
            raise ConnectionError("no route to https://me:secret@host/api")
        self.got.append(trial)


def tracked(number=0, state="running", **fields):
    return TrackedTrial(
        run=f"mine-0a1b2c3d-{number:04d}", study="mine", number=number, state=state, **fields
    )


def closed_outbox(*trials):
    outbox = Outbox()
    read_records([trial.to_line() for trial in trials], outbox)
    return outbox


def test_a_record_is_the_same_after_its_line():
    trial = tracked(params={"lr": 0.1}, epochs={3: {"loss": float("inf")}}, files={"a": "ä\n\ud800"})
    assert TrackedTrial.from_line(trial.to_line()) == trial


def test_what_waits_for_a_trial_goes_as_one_record():
    tracker, messages = RecordingTracker(), io.StringIO()
    updates = [
        tracked(epochs={1: {"loss": 2.0}}),
        tracked(1),
        tracked(epochs={2: {"loss": 1.0}}, values={"value": 1.0}),
    ]
    send_all(closed_outbox(*updates), tracker, "mlflow", messages)
    whole = tracked(epochs={1: {"loss": 2.0}, 2: {"loss": 1.0}}, values={"value": 1.0})
    assert tracker.got == [whole, tracked(1)]
    assert messages.getvalue() == ""


def test_a_refused_record_is_sent_again_after_the_others():
    tracker, messages = RecordingTracker(refused=1), io.StringIO()
    send_all(closed_outbox(tracked(0), tracked(1)), tracker, "mlflow", messages)
    assert tracker.got == [tracked(1), tracked(0)]
    first, second = messages.getvalue().splitlines()
    assert "no route to https://host/api" in first
    assert second == "mlflow answers again"


def test_what_came_meanwhile_is_newer_than_what_is_put_back():
    outbox = Outbox()
    outbox.put(tracked(state="complete", params={"lr": 2}))
    outbox.put_back(tracked(params={"lr": 1}, values={"value": 3.0}))
    assert outbox.take() == tracked(state="complete", params={"lr": 2}, values={"value": 3.0})
    assert outbox.take() is None


def test_a_tracker_that_never_answers_is_given_up():
    outbox = closed_outbox(tracked())
    send_all(outbox, RecordingTracker(refused=1000), "mlflow", io.StringIO())
    assert len(outbox) == 1


def test_the_oldest_of_too_many_trials_is_dropped():
    outbox = closed_outbox(*(tracked(number) for number in range(MAX_WAITING + 1)))
    assert (len(outbox), outbox.dropped) == (MAX_WAITING, 1)
    assert outbox.take() == tracked(1)


def test_half_a_line_of_a_killed_worker_is_left_out():
    outbox = Outbox()
    read_records([tracked().to_line()[:-9]], outbox)
    assert len(outbox) == 0
    assert outbox.closing.is_set()


def test_an_error_is_one_line_without_credentials():
    assert describe_error(OSError("http://u:p@h/x\nhttps://key@h")) == "OSError: http://h/x https://h"


def test_the_state_is_that_of_the_later_record():
    assert tracked().updated(replace(tracked(), state="pruned")).state == "pruned"
