"""A person's own objective as a run: a function that yields (accuracy, state) after each epoch.

``train.objective = "package.module:function"`` names it. It is called as ``function(config, state)``:
``config`` holds the trial's settings, ``state`` is None at first, and the last state that was saved when a
trial is taken up again. States are tensors and plain values, alone or in dicts and lists; what else they
hold fails the trial when one is saved first::

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
    """Import the function that ``package.module:function`` names; the working directory is looked in too.

    Raises DefinitionError if there is none; what the module itself raises passes through.
    """
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise  # the module is there, and lacks something itself
        raise DefinitionError(
            f"train.objective: no module '{error.name}' in {Path.cwd()} or in the environment; "
            "want package.module:function"
        ) from error
    function: Objective | None = getattr(module, function_name, None)
    if not callable(function):
        raise DefinitionError(f"train.objective: module '{module_name}' has no function '{function_name}'")
    return function


class CustomRun:
    """One run of the function, from its start or from a state; an iterator like ``train.Run``.

    Where it is ``final``, nothing is chosen by its accuracies: the last epoch is what it comes to.
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
        self.step, self.seconds = 0, 0.0  # an epoch is never left half done

    @property
    def finished(self) -> bool:
        """Tell whether the function has ended, or has had all its epochs."""
        return self.exhausted or len(self.history) >= self.config.epochs

    @property
    def best_epoch(self) -> Epoch:
        """The epoch of the best accuracy, the first of several; of a final run the last one."""
        return self.history[-1] if self.final else events.best_epoch(self.history)

    def epochs(self) -> Iterator[Epoch]:
        """Give each epoch as it ends; ends early, between two epochs, once told to stop.

        Raises ValueError for an accuracy that is no finite number, and if not one epoch was yielded.
        """
        if self.finished:
            return
        given = self._iterate_objective()
        while not self.finished and not self.stop.is_set():
            started = time.perf_counter()
            try:
                yielded = next(given)
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
        """Give what the function yields.

        An OSError of its own (a picture that cannot be read, a server that does not answer) is its trial's
        fault, and must not pass for one of the files that hpo itself writes: it becomes a RuntimeError.
        """
        try:
            yield from self.objective(self.config, self.own_state)
        except OSError as error:
            cause = "".join(traceback.format_exception_only(error)).strip()
            raise RuntimeError(f"{self.config.objective} raised {cause}") from error

    def _parse_yielded(self, yielded: Any) -> tuple[float, Any]:
        """Give the accuracy and the state that the function yielded."""
        try:
            accuracy, own = yielded
            finite = math.isfinite(accuracy)
        except (TypeError, ValueError):
            message = f"{self.config.objective} yielded {repr(yielded)[:80]}; want (accuracy, state)"
            raise ValueError(message) from None
        if not finite:
            raise ValueError(f"{self.config.objective} yielded an accuracy of {accuracy}")
        return float(accuracy), own

    def weights(self) -> Any:
        """Give the function's own state as it stands, not a copy."""
        return self.own_state

    def state(self) -> dict[str, Any]:
        """Give all that is needed to go on from here."""
        return {
            "epoch": len(self.history),
            "step": 0,
            "exhausted": self.exhausted,
            "own": self.own_state,
            "history": [asdict(epoch) for epoch in self.history],
        }
