"""What went wrong in an operator's night with three workers can be told in the morning, from records alone.

The night does to a study what nights do. The morning knows nothing of that: it reads ``hpo events``, ``hpo
status`` and logs, and tells of every attempt who ran it, when, where, and why it ended. Both must agree.
"""

import contextlib
import re
import socket
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest

from hpo.workers.worker import MAX_FAILURES
from tests.support import postgres
from tests.support.databases import closed_engines
from tests.support.disks import mounted_disk
from tests.support.morning import Attempt, Morning, is_outage, moment, read_lines
from tests.support.network import require_root
from tests.support.night import EPOCHS, OWN, PASSWORDS, POINTS, STUDY, Night

# What ended an attempt: outcome and reason, and what its process said where the reason does not suffice.
CAUSES = {
    "complete": r"^complete: $",
    "killed": r"^died: its process was gone; .* died of SIGKILL; ",
    "worker stopped": r"^released: asked to stop; .* is asked to stop: this command was asked to stop$",
    "trial stopped": r"^pruned: stopped by hand$",
    "paused": r"^released: the study is paused$",
    "full disk": r"^released: (/|asked to stop; .* \(process \d+\) has ended: /).*: No space left",
    "new password": r"^died: its process was gone; .*password authentication failed.*; set PGPASSWORD",
}


@pytest.fixture
def night(workplace) -> Iterator[Night]:
    """Return a study of four trials, with a server that wants a password and a disk of eight megabytes."""
    require_root("mount", "umount")
    (workplace.path / "own.py").write_text(OWN)
    with contextlib.ExitStack() as cleanup:
        server = cleanup.enter_context(postgres.running(password=PASSWORDS[0]))
        cleanup.enter_context(closed_engines())
        disk = cleanup.enter_context(mounted_disk(workplace.path / "disk", 8))
        found = Night(place=workplace, server=server, disk=disk)
        cleanup.callback(found.kill_all)
        yield found


def read_morning(night: Night) -> Morning:
    files = [*night.place.path.glob("*.jsonl"), *night.disk.glob("*/logs/*.log")]
    return Morning(
        events=night.hpo("events", "small", "--json").json(),
        status=night.hpo("status", "small", "--json").json(),
        log=sorted(read_lines(files), key=moment),
    )


@dataclass(frozen=True, kw_only=True)
class Told:
    """The attempts of a night by what ended them, and what the night knows of it."""

    night: Night
    morning: Morning
    by_cause: dict[str, list[Attempt]]

    def check_deeds(self) -> None:
        """Compare what the records tell with what the night did: to whom, where and when."""
        did, found = self.night.did, {cause: pairs(told) for cause, told in self.by_cause.items()}
        assert found["killed"] == [did["killed"]]
        assert found["worker stopped"] == [did["worker stopped"]]
        assert found["trial stopped"] == [did["trial stopped"]]
        assert found["paused"] == sorted(did["paused"])
        assert {process for _, process in found["full disk"]} <= set(did["full disk"])
        assert len(found["full disk"]) >= MAX_FAILURES
        assert found["new password"] == did["new password"]
        stopped, _ = did["trial stopped"]
        assert [trial for trial, _ in found["complete"]] == sorted({*range(POINTS)} - {stopped})
        for cause, (began, ended) in self.night.times.items():
            for each in self.by_cause.get(cause, ()):
                assert each.ended <= ended, each
                assert each.outcome == "died" or began <= each.ended, each  # else its last sign of life

    def check_orders(self) -> None:
        """What people did has their name, and comes before its effect."""
        orders = {
            (each["event"], each.get("trial")): each
            for each in self.morning.events
            if "attempt" not in each
        }
        stopped, _ = self.night.did["trial stopped"]
        assert [*orders] == [("created", None), ("stopped", stopped), ("paused", None), ("resumed", None)]
        assert {each["by"].rpartition("@")[2] for each in orders.values()} == {socket.gethostname()}
        (end,) = self.by_cause["trial stopped"]
        assert moment(orders["stopped", stopped]) <= end.ended
        for each in self.by_cause["paused"]:
            assert moment(orders["paused", None]) <= each.ended <= moment(orders["resumed", None])

    def check_epochs(self, attempts: Sequence[Attempt]) -> None:
        """No attempt reports an epoch twice, and none is missing; what was saved is not repeated."""
        for each in attempts:
            assert list(each.epochs) == [
                *range(each.begins_after + 1, each.begins_after + 1 + len(each.epochs))
            ]
        is_saved = {*map(id, self.by_cause["paused"]), *map(id, self.by_cause["worker stopped"])}
        for first, second in pairwise(attempts):
            if first.trial == second.trial and id(first) in is_saved and first.epochs and second.epochs:
                assert second.begins_after == first.epochs[-1], (first, second)
        for each in self.by_cause["complete"]:
            trained = {epoch for one in attempts if one.trial == each.trial for epoch in one.epochs}
            assert trained == {*range(1, EPOCHS + 1)}

    def check_outage(self) -> None:
        """Every worker that had a trial says when the database went and when it was back."""
        began, ended = self.night.times["outage"]
        for process in self.night.did["outage"]:
            told = [line for line in self.morning.log if line["process"] == process and is_outage(line)]
            away = told[0]
            back = next(line for line in told if line["message"].startswith("the store is back after "))
            assert away["message"].startswith("store postgresql"), away
            assert away["message"].endswith("; trying again"), away
            assert began <= moment(away) <= min(ended, moment(back))


def pairs(attempts: Sequence[Attempt]) -> list[tuple[int, int]]:
    """Return trial and process of attempts."""
    return [(each.trial, int(each.where.rpartition("/")[2])) for each in attempts]


def check_accounts(morning: Morning, attempts: Sequence[Attempt]) -> None:
    """Every trial is accounted for once, from its first attempt to its end; no process has two at once."""
    times = [moment(each) for each in morning.events]
    assert times == sorted(times)
    by_trial, by_process = defaultdict(list), defaultdict(list)
    for each in attempts:
        by_trial[each.trial].append(each)
        by_process[each.where].append(each)
    assert [*by_trial] == [*range(POINTS)]
    for told in by_trial.values():
        assert [each.number for each in told] == [*range(1, len(told) + 1)]
        assert {each.outcome for each in told[:-1]} <= {"released", "died"}
    for told in (*by_trial.values(), *by_process.values()):
        assert all(each.began <= each.ended for each in told)
        in_time = sorted(told, key=lambda each: each.began)
        assert all(first.ended <= second.began for first, second in pairwise(in_time))
    ends = Counter(told[-1].outcome for told in by_trial.values())
    assert (morning.status["state"], morning.status["workers"]) == ("complete", [])
    assert +Counter(morning.status["trials"]) == ends == {"complete": POINTS - 1, "pruned": 1}


def find_cause(attempt: Attempt) -> str:
    """Return the one cause that an attempt's end tells of."""
    text = f"{attempt.outcome}: {attempt.why}"
    (found,) = [cause for cause, pattern in CAUSES.items() if re.search(pattern, text)] or [text]
    assert found in CAUSES, attempt
    return found


def test_the_records_of_a_night_tell_what_happened_to_every_trial(night):
    night.hpo("create", night.place.study(STUDY))
    night.let_train()
    night.launch("many", 2)
    night.launch("one", 1)
    night.wait_for_epoch(3)
    night.kill_a_worker()
    night.restart_database()
    night.stop_a_trial()
    night.stop_a_worker()
    night.pause()
    night.resume_on_full_disk()
    night.change_password()
    morning = read_morning(night)
    attempts = morning.attempts()
    print(*attempts, sep="\n")
    check_accounts(morning, attempts)
    by_cause: dict[str, list[Attempt]] = defaultdict(list)
    for each in attempts:
        by_cause[find_cause(each)].append(each)
    told = Told(night=night, morning=morning, by_cause=by_cause)
    told.check_deeds()
    told.check_orders()
    told.check_epochs(attempts)
    told.check_outage()
    for number in range(POINTS):
        one = night.hpo("events", "small", "--trial", str(number), "--json").json()
        assert one == [each for each in morning.events if each.get("trial") == number]
    assert {line["study"] for line in morning.log} == {"small"}
    assert not any(word in str(morning) for word in PASSWORDS), "nothing shows a password"
    assert "Traceback" not in str(morning)
