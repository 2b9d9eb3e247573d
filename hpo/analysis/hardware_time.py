"""Which hardware a trial's time was spent on, where its attempts ran on several kinds.

A trial stores the time of each epoch, an attempt the last epoch that was reported when it ended. So an
epoch's time is that of the attempt that reported it first; the rest, such as that of an epoch that was not
finished, is that of the last attempt. The trials of an older store have no attempts: their time is whole.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpo.analysis.records import TrialRecord, hardware_kind
from hpo.store.attempts import Attempt


@dataclass(frozen=True, kw_only=True)
class HardwareShare:
    """What a trial spent on one kind of hardware.

    Attributes:
        trial: The trial.
        kind: The hardware, as in ``TrialRecord.hardware``; of an attempt before the last one the device
            alone, unless all other trials on this device are of one kind.
        epochs: How many epochs were reported there.
        seconds: Of training and evaluation.
        lost_seconds: Of its attempts there, besides these; None if it had one attempt.
        is_last: Whether its last attempt ran there.
    """

    trial: TrialRecord
    kind: str
    epochs: int
    seconds: float
    lost_seconds: float | None
    is_last: bool


def hardware_shares(found: Sequence[TrialRecord], attempts: Iterable[Attempt]) -> list[HardwareShare]:
    """Return what trials spent on each kind of hardware, in the order of the trials.

    Trials without recorded hardware are left out, and those on several kinds without attempts.

    Args:
        found: Trials of a study.
        attempts: The attempts at them, as far as the store has them.
    """
    kinds = _kinds_by_device(found)
    by_trial: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_trial[attempt.trial].append(attempt)
    shares: list[HardwareShare] = []
    for each in found:
        own = sorted(by_trial[each.number], key=lambda attempt: attempt.attempt)
        if each.hardware is None:
            continue
        if own and len(own) == each.attempts:
            shares += _divide(each, own, kinds)
        elif not each.ran_on_several:
            shares.append(_whole(each, each.hardware))
    return shares


def _kinds_by_device(found: Iterable[TrialRecord]) -> dict[str, str]:
    """Return the kind of hardware of each device on which all trials are of one kind."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for each in found:
        if each.hardware is not None and each.hardware_facts and not each.ran_on_several:
            kinds[str(each.hardware_facts.get("device"))].add(each.hardware)
    return {device: next(iter(names)) for device, names in kinds.items() if len(names) == 1}


def _whole(trial: TrialRecord, kind: str) -> HardwareShare:
    lost = None
    if trial.attempts > 1 and trial.elapsed_seconds is not None:
        lost = max(trial.elapsed_seconds - trial.wall_seconds, 0.0)
    return HardwareShare(
        trial=trial,
        kind=kind,
        epochs=len(trial.epoch_seconds),
        seconds=trial.wall_seconds,
        lost_seconds=lost,
        is_last=True,
    )


def _divide(trial: TrialRecord, attempts: Sequence[Attempt], kinds: dict[str, str]) -> list[HardwareShare]:
    last, facts = attempts[-1], dict(trial.hardware_facts or {})
    facts.pop("earlier_devices", None)
    kind = hardware_kind(facts) or last.hardware
    epochs: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    spent: dict[str, float] = defaultdict(float)
    done = 0
    for attempt in attempts:
        own = kind if attempt.hardware == last.hardware else kinds.get(attempt.hardware, attempt.hardware)
        until = len(trial.epoch_seconds) if attempt is last else max(attempt.epochs or 0, done)
        part = trial.epoch_seconds[done:until]
        epochs[own] += len(part)
        seconds[own] += sum(part)
        spent[own] += attempt.seconds or 0.0
        done = until
    seconds[kind] += max(trial.wall_seconds - sum(trial.epoch_seconds), 0.0)
    return [
        HardwareShare(
            trial=trial,
            kind=each,
            epochs=epochs[each],
            seconds=seconds[each],
            lost_seconds=max(spent[each] - seconds[each], 0.0) if len(attempts) > 1 else None,
            is_last=each == kind,
        )
        for each in epochs
    ]
