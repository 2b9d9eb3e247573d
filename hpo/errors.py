"""The errors that the user of the command line can correct.

HpoError
 +- DefinitionError           a study file, a --set or a setting given by hand is wrong
 +- StoreError                the store cannot be opened, refuses a request, or lacks the study asked for
 |   +- StoreUnavailable      the store cannot be reached at the moment; that may pass by itself
 +- DataError                 a data set cannot be found, downloaded or read
 +- WeightsError              pretrained weights cannot be found, downloaded or loaded
 +- DeviceError               the requested device does not exist
 |   +- DeviceLost            the device no longer answers this process; a new process may be able to use it
 +- ArtifactError             a file of a trial cannot be written or read
 |   +- ArtifactsUnavailable  the artifacts cannot be reached at the moment; that may pass by itself
 |   +- CacheUnusable         a study keeps its decoded images on the disk, where there is no room
 +- CurvesError               recorded curves cannot be read, or there are too few of them
 +- EngineError               a scheduler (Slurm, Ray) is missing, or does not accept the workers
 +- WorkerStartError          no worker process can be started on this machine at the moment
 +- StopRequested             what a worker was doing was stopped on request
 +- DashboardError            the dashboard cannot be served where, or as, requested

Each is shown as one line on stderr, without a traceback. It says where the problem is, what was found, what
is allowed, and what to do. Any other exception that reaches the user is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

QUOTED_LENGTH = 80  # characters of a value that a message quotes
MESSAGE_LENGTH = 2000  # characters of a whole message: whatever is quoted in it, it can be read


class HpoError(Exception):
    """Something that the user can correct.

    Messages name verbs and flags of the command. In Python, a method of ``hpo.Study`` or a function of
    ``hpo`` has the name of the verb, and an argument that of the flag: for ``hpo retry mine --trial 3``
    write ``study.retry(trial=3)``, for ``--name`` ``name=``. Other names have ``--set`` (``overrides=``),
    ``--to`` (``folder=``) and ``hpo launch`` (``study.run()``).

    Line breaks in its text become spaces. Of a text longer than ``MESSAGE_LENGTH`` the middle is left out:
    the beginning says where the problem is, and the end what to do.
    """

    def __init__(self, text: str) -> None:
        super().__init__(shorten(" ".join(text.splitlines()), MESSAGE_LENGTH))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython and Jupyter show in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class DefinitionError(HpoError):
    """A study file, a ``--set`` or a setting given by hand is wrong.

    Attributes:
        problems: What is wrong, each problem as a text of its own.
    """

    def __init__(self, text: str, problems: Iterable[str] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems) or (text,)


class StoreError(HpoError):
    """The store cannot be opened or refuses a request, or a study in it is not what was asked for."""


class StoreMissing(StoreError):
    """There is no store at a URL: no file, or a database without the tables."""


class NoCompleteTrial(StoreError):
    """No trial of a study is complete, so it has no result yet."""


class StoreUnavailable(StoreError):
    """The store cannot be reached at the moment, or another process locks it for too long."""


class DataError(HpoError):
    """A data set cannot be found, downloaded or read."""


class ImagesUnreadable(DataError):
    """Image files are no images, damaged or too large, which reading them again cannot change."""


class ImagesChanged(DataError):
    """A folder has other images than those that a study began with."""


class WeightsError(HpoError):
    """Pretrained weights cannot be found, downloaded or loaded."""


class DeviceError(HpoError):
    """The requested device does not exist."""


class DeviceLost(DeviceError):
    """The device no longer answers this process."""


class ArtifactError(HpoError):
    """A file of a trial cannot be written or read."""


class ArtifactsUnavailable(ArtifactError):
    """The place of the trials' files cannot be reached at the moment."""


class CacheUnusable(ArtifactError):
    """The decoded images of a study cannot be kept on the disk, as the study demands."""


class CurvesError(HpoError):
    """Recorded curves cannot be read, or there are too few of them."""


class EngineError(HpoError):
    """A scheduler that should run workers is missing, or does not accept them as requested."""


class WorkerStartError(HpoError):
    """No worker process can be started on this machine at the moment."""


class StopRequested(HpoError):
    """What this process was doing was stopped because it is to end."""


class DashboardError(HpoError):
    """The dashboard cannot be served where, or as, requested."""


def error_text(error: BaseException) -> str:
    """Return the text of any error, such as one that the user's code raised, so that it can be stored.

    Lone surrogates, which no file or terminal can encode, become backslash escapes. An error whose own
    ``__str__`` raises has its class as its text.
    """
    try:
        text = str(error)
    except BaseException as failure:
        text = f"{type(error).__name__}, whose text raises {type(failure).__name__}"
    return escape_surrogates(text)


def escape_surrogates(text: str) -> str:
    """Return a text with backslash escapes in place of the characters that UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()


def suggestion(word: str, allowed: Iterable[str]) -> str:
    """Return a hint at the most similar allowed name, whatever the case, for an error message.

    Args:
        word: What the user wrote.
        allowed: The names that are allowed.

    Returns:
        ``"; did you mean 'lr'?"``, or an empty string if nothing is similar. Only in the second case does
        the text that follows need a semicolon: ``{suggestion(...) or ";"} options: ...``.
    """
    near = most_similar(word, allowed)
    return f"; did you mean '{near}'?" if near is not None else ""


def most_similar(word: str, allowed: Iterable[str]) -> str | None:
    """Return the most similar allowed name, whatever the case, or None if nothing is similar."""
    lowered = {name.lower(): name for name in allowed}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=0.55)
    return lowered[near[0]] if near else None


def shorten(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters: of a longer one the middle becomes ``...``."""
    if len(text) <= length:
        return text
    half = (length - 3) // 2
    return f"{text[: length - 3 - half]}...{text[-half:]}"


def join_names(names: Iterable[str], most: int = 3) -> str:
    """Return the first names, separated by commas, and how many more there are: "a, b, c and 5 more"."""
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def format_bytes(nbytes: int) -> str:
    """Return a number of bytes as text, such as ``15.1 GB``."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    unit, name = next((each for each in units if nbytes >= each[0]), units[-1])
    return f"{nbytes / unit:.1f} {name}"


def quote_value(value: Any) -> str:
    """Return a value as TOML writes it, for an error message; ``nothing`` for None.

    What is longer than ``QUOTED_LENGTH`` is cut and ends in ``...``.
    """
    text = _toml(value)
    return text if len(text) <= QUOTED_LENGTH else f"{text[: QUOTED_LENGTH - 3]}..."


def _toml(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, Mapping):
        items = ", ".join(f"{key} = {_toml(each)}" for key, each in value.items())
        return f"{{ {items} }}" if items else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value)
