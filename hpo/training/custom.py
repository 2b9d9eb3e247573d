"""A run of a custom objective: a function that yields (accuracy, state) after each epoch.

``train.objective = "package.module:function"`` names the function. It is called as ``function(config,
state)``. ``config`` holds the trial's settings. ``state`` is None at first; when a trial is resumed, it is
the last state that was saved. A state consists of tensors and plain values, alone or in dicts and lists.
Any other type makes the trial fail when its state is saved for the first time::

    def objective(config, state):
        state = state or {"epoch": 0, "weight": torch.zeros(3)}
        while state["epoch"] < config.epochs:
            ...
            state["epoch"] += 1
            yield accuracy, state
"""

import importlib
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpo.errors import DefinitionError
from hpo.training import events
from hpo.training.config import CustomConfig
from hpo.training.events import Epoch

Objective = Callable[[CustomConfig, Any], Iterator[tuple[float, Any]]]


def import_objective(name: str) -> Objective:
    """Import a custom objective; the working directory is put first in ``sys.path`` if it is not in it.

    Errors that the module itself raises while it is imported pass through.

    Args:
        name: ``package.module:function``.

    Raises:
        DefinitionError: If the module does not exist, or has no callable of this name.
    """
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but one of its own imports does not
        raise DefinitionError(
            f"train.objective: no module '{error.name}' in {Path.cwd()} or in the environment; "
            "want package.module:function"
        ) from error
    function: Objective | None = getattr(module, function_name, None)
    if not callable(function):
        raise DefinitionError(f"train.objective: module '{module_name}' has no function '{function_name}'")
    return function


class CustomRun:
    """One run of a custom objective, from its start or from a state.

    It has the part of ``loop.TrainingRun``'s interface that a trial needs. Errors that the objective's
    module raises while it is imported pass through.

    Args:
        config: The trial's settings.
        state: What ``state()`` returned in an earlier attempt; None to start from the beginning.
        stop: When set, ``epochs()`` ends after the epoch that is running, or starts none.
        final: Whether this is a run of ``hpo finish``, whose result is the last epoch, not the best one.

    Raises:
        DefinitionError: If the objective does not exist or is not callable.
    """

    def __init__(
        self,
        config: CustomConfig,
        *,
        state: Mapping[str, Any] | None = None,
        stop: threading.Event | None = None,
        final: bool = False,
    ) -> None:
        self.config = config
        self.final = final
        self.stop = stop or threading.Event()
        self.objective = import_objective(config.objective)
        self.history = [Epoch(**epoch) for epoch in state["history"]] if state else []
        self.own_state: Any = state["own"] if state else None
        self.exhausted = bool(state and state["exhausted"])
        self.step, self.seconds = 0, 0.0  # always between two epochs

    @property
    def finished(self) -> bool:
        """Whether the function has returned, or has run for the maximum number of epochs."""
        return self.exhausted or len(self.history) >= self.config.epochs

    @property
    def best_epoch(self) -> Epoch:
        """The first epoch with the highest accuracy; in a final run the last epoch.

        At least one epoch must be done.
        """
        return self.history[-1] if self.final else events.best_epoch(self.history)

    def epochs(self) -> Iterator[Epoch]:
        """Run the objective, and yield each epoch when it ends, until it is finished or ``stop`` is set.

        Once ``config.epochs`` are done, the function is not continued. Its errors pass through, except
        OSError.

        Raises:
            ValueError: If the function yields something other than (finite number, state), or returns
                before the trial's first epoch.
            RuntimeError: If the function raises an OSError.
        """
        if self.finished:
            return
        yields = self._iterate_objective()
        while not self.finished and not self.stop.is_set():
            started = time.perf_counter()
            try:
                yielded = next(yields)
            except StopIteration:
                self.exhausted = True
                break
            accuracy, self.own_state = self._parse_yielded(yielded)
            seconds = time.perf_counter() - started
            number = len(self.history) + 1
            self.history.append(Epoch(number=number, accuracy=accuracy, train_seconds=seconds))
            yield self.history[-1]
        if self.exhausted and not self.history:
            raise ValueError(f"{self.config.objective} yielded nothing")

    def _iterate_objective(self) -> Iterator[Any]:
        """Yield what the function yields, and turn an OSError of the function into a RuntimeError.

        An OSError of the function (an unreadable image, a server that does not answer) must fail the trial.
        It must not be mistaken for an error of the files that hpo itself writes, which stops the worker.
        """
        try:
            yield from self.objective(self.config, self.own_state)
        except OSError as error:
            cause = "".join(traceback.format_exception_only(error)).strip()
            raise RuntimeError(f"{self.config.objective} raised {cause}") from error

    def _parse_yielded(self, yielded: Any) -> tuple[float, Any]:
        """Return the accuracy and the state that the function yielded; raises ValueError if malformed."""
        try:
            accuracy, own_state = yielded
            finite = math.isfinite(accuracy)
        except (TypeError, ValueError):
            message = f"{self.config.objective} yielded {repr(yielded)[:80]}; want (accuracy, state)"
            raise ValueError(message) from None
        if not finite:
            raise ValueError(f"{self.config.objective} yielded an accuracy of {accuracy}")
        return float(accuracy), own_state

    def weights(self) -> Any:
        """Return the state that the function yielded last, not a copy; None before the first epoch."""
        return self.own_state

    def state(self) -> dict[str, Any]:
        """Return everything needed to resume: the function's state (not a copy) and plain values."""
        return {
            "epoch": len(self.history),
            "step": 0,
            "exhausted": self.exhausted,
            "own": self.own_state,
            "history": [asdict(epoch) for epoch in self.history],
        }
