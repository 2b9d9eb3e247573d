"""What the person at the terminal can put right.

HpoError
 +- DefinitionError    a study file, a --set or a setting given by hand is wrong
 +- StoreError         the store cannot be opened, or a study is not there, or not as expected
 |   +- StoreAway      the store cannot be reached just now, which may pass by itself
 +- DataError          a data set cannot be found, downloaded or read
 +- WeightsError       pretrained weights cannot be found, downloaded or loaded
 +- DeviceError        the device asked for is not there
 |   +- DeviceAway       the device answers this process no more, which a new process may mend
 +- ArtifactError      a file of a trial cannot be written or read
 |   +- ArtifactAway    the place of such files cannot be reached just now, which may pass by itself
 +- CurvesError        recorded curves cannot be read, or are too few
 +- EngineError        a scheduler (Slurm, Ray) is not here, or does not take the workers
 +- DashboardError     the dashboard cannot be served where, or as, it was asked for

Each is shown as one line on stderr, without a traceback, and says where, what was found, what is
allowed and what to do. Anything else that escapes is a bug of ours and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class HpoError(Exception):
    """Something the person at the terminal can put right; its text is one line, whatever it quotes."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.splitlines()))


class DefinitionError(HpoError):
    """A study file, a ``--set`` or a setting given by hand is wrong."""


class StoreError(HpoError):
    """The store cannot be opened, or a study in it is not what was asked for."""


class StoreUnavailable(StoreError):
    """The store cannot be reached just now."""


class DataError(HpoError):
    """A data set cannot be found, downloaded or read."""


class WeightsError(HpoError):
    """Pretrained weights cannot be found, downloaded or loaded."""


class DeviceError(HpoError):
    """The device asked for is not there."""


class DeviceLost(DeviceError):
    """The device answers this process no more."""


class ArtifactError(HpoError):
    """A file of a trial cannot be written or read."""


class ArtifactsUnavailable(ArtifactError):
    """The place of trials' files cannot be reached just now."""


class CurvesError(HpoError):
    """Recorded curves cannot be read, or are too few."""


class EngineError(HpoError):
    """A scheduler that was to run workers is not here, or does not take them as asked."""


class DashboardError(HpoError):
    """The dashboard cannot be served where, or as, it was asked for."""


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """Give ``"; did you mean 'lr'?"`` for the nearest spelling among ``allowed``, or nothing.

    What is said next needs a semicolon only in the second case: ``{suggestion(...) or ";"} options: ...``.
    """
    names = list(allowed)
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    # "learning_rate" is nobody's typo of "lr", but it is what half of the field calls it.
    alias = {"learning_rate": "lr", "learningrate": "lr", "bs": "batch_size", "net": "model"}
    name = alias.get(word.lower()) or (lowered[near[0]] if near else None)
    return f"; did you mean '{name}'?" if name in names else ""


def quote_value(value: Any) -> str:
    """Give a value as TOML writes it, for an error to quote: one line, and not a long one."""
    text = _toml(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _toml(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)
