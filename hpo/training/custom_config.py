"""The settings of a trial of a custom objective: any options, with what the trial's place adds to them."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from hpo.training.config import FUNCTION_PATTERN, Config, settings_of


@dataclass(frozen=True, kw_only=True)
class TrialPlace:
    """Where a trial of a custom objective runs."""

    device: str  # as torch names it: "cpu", "cuda:0"
    trial: int  # its number
    folder: Path  # for files of the function's own, which stay with the trial


# Methods of pydantic's first version, which it keeps for old code: ``copy``, ``dict``, ``json`` and so on.
_OLD_METHODS = frozenset(name for name in dir(BaseModel) if not name.startswith(("_", "model_")))
_OF_A_PLACE = frozenset(field.name for field in fields(TrialPlace))


class CustomConfig(BaseModel):
    """The settings of a trial with a custom objective; it may have any options under any names.

    They can be read as attributes and as items: ``config.lr`` and ``config["lr"]``. While the trial runs,
    ``config.device``, ``config.trial`` and ``config.folder`` say where (see ``TrialPlace``). An option
    hides one of these, or a method of pydantic such as ``model_copy``, if it has the same name. A name that
    no option of the trial has is none of pydantic's older methods either: where an option ``json`` is left
    out, ``config.json`` raises AttributeError. Only ``objective``, ``epochs`` and ``seed`` are checked.

    Raises:
        ValidationError: pydantic's, if one of these three is of another type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, use_attribute_docstrings=True)

    objective: Annotated[str, Field(pattern=FUNCTION_PATTERN)]
    """package.module:function, which yields (value, state) after each epoch."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = Config.model_fields["epochs"].default
    """Maximum number of epochs."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """What the generators of torch, numpy and random are seeded from."""
    _place: TrialPlace | None = PrivateAttr(default=None)

    @property
    def device(self) -> str:
        """The device of the trial's worker; raises AttributeError while no trial runs."""
        return self._running_place().device

    @property
    def trial(self) -> int:
        """The trial's number; raises AttributeError while no trial runs."""
        return self._running_place().trial

    @property
    def folder(self) -> Path:
        """The trial's folder; raises AttributeError while no trial runs."""
        return self._running_place().folder

    def _running_place(self) -> TrialPlace:
        if self._place is None:
            raise AttributeError("device, trial and folder are known only while a trial runs")
        return self._place

    def __getattribute__(self, name: str) -> Any:
        """Return the setting of this name, or else what pydantic's model has under it."""
        if not name.startswith("_"):
            own = super().__getattribute__("__pydantic_extra__") or {}
            if name in own and not (name == "model_post_init" and self._is_being_made()):
                return own[name]
            if name in _OLD_METHODS:
                raise AttributeError(name)  # Python calls __getattr__ then
        return super().__getattribute__(name)

    def __getattr__(self, name: str) -> Any:
        """Say that there is no such setting; pydantic's own attributes that begin with "_" are its own."""
        if name.startswith("_") or name in _OF_A_PLACE:
            return super().__getattr__(name)  # type: ignore[misc]  # pydantic hides it from type checkers
        raise AttributeError(f"the trial has no option '{name}'; it has {', '.join(settings_of(self))}")

    def _is_being_made(self) -> bool:
        """Return whether pydantic has yet to call ``model_post_init``, as the last step of the checks."""
        return getattr(self, "__pydantic_private__", None) is None

    def __getitem__(self, name: str) -> Any:
        """Return the setting of this name; raises KeyError if the trial has none."""
        settings = settings_of(self)
        return settings[name]


def at_place(config: CustomConfig, place: TrialPlace) -> CustomConfig:
    """Return the same settings for a trial that runs at a place."""
    placed = BaseModel.model_copy(config)
    placed._place = place
    return placed
