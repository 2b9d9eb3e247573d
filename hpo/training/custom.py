"""A run of a custom objective: a function that yields (value, state) after each epoch.

The value is that of the study's metric. Other metrics may come with it; see ``yielded``.

``train.objective = "package.module:function"`` names the function. It is called as ``function(config,
state)``. ``config`` holds the trial's settings. ``state`` is None at first; when a trial is resumed, it is
the last state that was saved. A state consists of tensors and plain values, alone or in dicts and lists.
Any other type makes the trial fail when its state is saved for the first time. A function that yields None
as its state cannot continue: a trial that is resumed starts again from its first epoch. One that yields a
state and does not continue from it fails when it is resumed, since its first epoch would count as a later
one. That is noticed if its code never mentions the state, and if the state is a dict with a whole number
under "epoch", which has to be higher in the first state after a resume::

    def objective(config, state):
        state = state or {"epoch": 0, "weight": torch.zeros(3)}
        while state["epoch"] < config.epochs:
            ...
            state["epoch"] += 1
            yield value, state

The generators of torch, numpy and random are seeded from the trial's seed, and from the number of epochs
done, before the function is called. Whatever the function raises fails its trial alone, also SystemExit and
KeyboardInterrupt. What it prints and logs goes to stderr, with the number of its trial.
"""

import dis
import inspect
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from hpo.errors import QUOTED_LENGTH, DefinitionError, HpoError, shorten
from hpo.training import events, user_code
from hpo.training.custom_config import CustomConfig, TrialPlace, at_place
from hpo.training.events import Epoch
from hpo.training.metric import METRICS, Metric
from hpo.training.objective_output import TrialOutput
from hpo.training.seeds import seed_generators
from hpo.training.yielded import Yielded, epoch_of, parse_yielded

_Metrics = Mapping[str, float]
Objective = Callable[
    [CustomConfig, Any], Iterable[tuple[float | _Metrics, Any] | tuple[float | _Metrics, Any, _Metrics]]
]

_END = object()  # what ``next`` returns after the function's last epoch

log = logging.getLogger("hpo")


def import_objective(name: str) -> Objective:
    """Import a custom objective, as ``user_code.import_function`` does.

    Args:
        name: ``package.module:function``, or ``__main__:function`` for a function of the script or notebook
            that this process runs.

    Raises:
        DefinitionError: As ``user_code.import_function`` does, or the script or notebook has not defined
            the function yet.
    """
    module_name, _, function_name = name.partition(":")
    if module_name == "__main__":
        own: Any = getattr(sys.modules["__main__"], function_name, None)
        if callable(own) and str(own.__module__).partition(".")[0] != "hpo":  # the command's own main
            return cast(Objective, own)
        raise DefinitionError(
            f"train.objective: '{name}': no function '{function_name}' is defined here; in a script or a "
            f"notebook, define it first, then call hpo.create() and study.run(objective={function_name}); "
            f"for 'hpo run' and for workers, put it into a file in {Path.cwd()}, such as own.py, and name "
            f"it own:{function_name}"
        )
    objective: Objective = user_code.import_function("train.objective", name)
    return objective


def check_function(objective: object) -> None:
    """Refuse what can be no objective: what cannot be called, and a plain function without a ``yield``.

    What any other callable does is known only when it is called.

    Raises:
        DefinitionError: It can be none.
    """
    if inspect.isgenerator(objective):
        name = objective.__name__
        found = f"what a call of '{name}' returned; give the function itself, objective={name}"
    elif not callable(objective):
        found = shorten(repr(objective), QUOTED_LENGTH)
    elif inspect.isfunction(objective) and not (
        inspect.isgeneratorfunction(objective) or hasattr(objective, "__wrapped__")
    ):
        found = f"the function '{objective.__name__}', which never yields"
    else:
        return
    raise DefinitionError(
        "objective: want a function of (config, state) that yields a value and a state after each epoch, "
        f"'yield value, state'; found {found}"
    )


def reads_state(objective: Objective) -> bool:
    """Return whether an objective may read its second parameter; False if its code never mentions it.

    Only a plain function shows that. Any other callable is taken to read it.
    """
    code = objective.__code__ if inspect.isfunction(objective) else None
    if code is None or code.co_argcount < 2 or hasattr(objective, "__wrapped__"):
        return True
    name = code.co_varnames[1]
    if name in code.co_cellvars or "locals" in code.co_names:
        return True
    loads = (each for each in dis.get_instructions(code) if each.opname.startswith("LOAD_FAST"))
    return any(
        name in (each.argval if isinstance(each.argval, tuple) else (each.argval,)) for each in loads
    )


class CustomRun:
    """One run of a custom objective, from its start or from a state.

    It has the part of ``loop.TrainingRun``'s interface that a trial needs.

    Args:
        config: The trial's settings.
        metric: The study's metric, of which the function yields the value.
        place: Where the trial runs; None: the objective cannot ask for it.
        state: What ``state()`` returned in an earlier attempt; None to start from the beginning.
        stop: When set, ``epochs()`` ends after the epoch that is running, or starts none.
        final: Whether this is a run of ``hpo finish``, whose result is the last epoch, not the best one.
        objective: The function to run; None: the one that the settings name is imported.

    Raises:
        DefinitionError: If the objective cannot be imported.
    """

    def __init__(
        self,
        config: CustomConfig,
        *,
        metric: Metric = METRICS["accuracy"],
        place: TrialPlace | None = None,
        state: Mapping[str, Any] | None = None,
        stop: threading.Event | None = None,
        final: bool = False,
        objective: Objective | None = None,
    ) -> None:
        self.config = config if place is None else at_place(config, place)
        self.metric = metric
        self.final = final
        self.stop = stop or threading.Event()
        self.output = TrialOutput(None if place is None else place.trial)
        with self.output.redirect(), self.output.call():
            self.objective = objective or import_objective(config.objective)
        self.history = [events.restore_epoch(epoch) for epoch in state["history"]] if state else []
        self.own_state: Any = state["own"] if state else None
        self.exhausted = bool(state and state["exhausted"])
        if self.history and self.own_state is None and not self.finished:
            log.warning(
                "%s yields no state, so the trial starts again from its first epoch", config.objective
            )
            self.history = []
        # A function may change its state in place, so the epoch that it is given is kept apart.
        self._resumed_after = epoch_of(self.own_state) if self.history else None
        self.step, self.seconds = 0, 0.0  # always between two epochs

    @property
    def finished(self) -> bool:
        """Whether the function has returned, or has run for the maximum number of epochs."""
        return self.exhausted or len(self.history) >= self.config.epochs

    @property
    def best_epoch(self) -> Epoch:
        """The first epoch with the best value; in a final run the last epoch.

        At least one epoch must be done.
        """
        return self.history[-1] if self.final else events.best_epoch(self.history, self.metric)

    def epochs(self) -> Iterator[Epoch]:
        """Run the objective, and yield each epoch when it ends, until it is finished or ``stop`` is set.

        Once ``config.epochs`` are done, the function is not continued. Its errors pass through, if they can
        only be its own; see ``_call_objective``.

        Raises:
            ValueError: If the function returns no iterable, yields something other than ``yielded`` allows,
                returns before the trial's first epoch, or does not continue from its state.
            RuntimeError: If the function raises an error that would end the worker.
            KeyboardInterrupt: If the user presses Ctrl-C again after ``stop`` was set, or the supervisor is
                gone while the function prints.
        """
        if not self.finished:
            with self.output.redirect():
                yield from self._run()

    def _run(self) -> Iterator[Epoch]:
        yields = self._call_objective(self._start)
        while not self.finished and not self.stop.is_set():
            started = time.perf_counter()
            yielded = self._call_objective(next, yields, _END)
            if yielded is _END:
                self.exhausted = True
                break
            parsed = self._call_objective(self._parse_yielded, yielded)
            self.own_state = parsed.state
            epoch = Epoch(
                number=len(self.history) + 1,
                value=parsed.value,
                train_seconds=time.perf_counter() - started,
                own_metrics=parsed.own_metrics,
                **parsed.known_metrics,
            )
            self.history.append(epoch)
            yield self.history[-1]
        if self.exhausted and not self.history:
            raise ValueError(f"{self.config.objective} yielded nothing")

    def _start(self) -> Iterator[Any]:
        """Call the function, and return the iterator over what it yields."""
        if self.history and not reads_state(self.objective):
            done = len(self.history)
            raise ValueError(
                f"{self.config.objective} never reads its second parameter, the state, so it cannot "
                f"continue after epoch {done}: its first epoch would count as epoch {done + 1}; let it "
                "begin from the state, or yield None as the state to start again from the first epoch"
            )
        seed_generators(self.config.seed, len(self.history))
        returned = self.objective(self.config, self.own_state)
        if isinstance(returned, str | tuple) or not isinstance(returned, Iterable):
            raise ValueError(
                f"{self.config.objective} returned {repr(returned)[:80]}; want a generator: "
                f"'yield {self.metric.name}, state' after each epoch, not 'return'"
            )
        return iter(returned)

    def _call_objective(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what runs the user's code; turn errors that must not end the worker into a RuntimeError.

        These are errors that are no ``Exception``, such as that of ``sys.exit``. An OSError or an HpoError
        of the function (an unreadable image, a server that does not answer) would be mistaken for one of
        the files that hpo itself writes. KeyboardInterrupt passes through only once ``stop`` is set: the
        first Ctrl-C sets it, and the second one raises the error. The same error says that nobody reads
        what the function prints any more: the supervisor is gone, and ``stop`` is set or about to be.
        """
        try:
            with self.output.call():
                return function(*args)
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, OSError | HpoError):
                raise
            if isinstance(error, KeyboardInterrupt) and self.stop.is_set():
                raise
            if isinstance(error, BrokenPipeError) and self.stop.wait(1.0):
                raise KeyboardInterrupt from error
            found = user_code.describe_error(error)
            raise RuntimeError(f"{self.config.objective} raised {found}") from error

    def _parse_yielded(self, yielded: Any) -> Yielded:
        """Return what the function yielded; ValueError if that is malformed, or does not follow."""
        try:
            parsed = parse_yielded(yielded, self.metric.name)
        except ValueError as error:
            raise ValueError(f"{self.config.objective} {error}") from None
        epoch, before = epoch_of(parsed.state), self._resumed_after
        if epoch is not None and before is not None and epoch <= before:
            raise ValueError(
                f"{self.config.objective} was given a state with epoch {before} and yielded one with epoch "
                f"{epoch}; let it continue after epoch {before}, or yield None as the state to start again "
                "from the first epoch"
            )
        self._resumed_after = None
        return parsed

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
