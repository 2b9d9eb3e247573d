"""Which options a study file may use: those of hpo's own training, or any for a custom objective."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpo.training.config import OPTIONS, STUDY_WIDE, USED_BY, Config, FinalConfig
from hpo.training.custom_config import CustomConfig


@dataclass(frozen=True, kw_only=True)
class OptionTable:
    """The options that a study file may use, and the rules about them."""

    config_class: type[Config] | type[CustomConfig]
    options: tuple[str, ...] | None  # None: any name
    study_wide: tuple[str, ...]  # fixed by each study
    used_by: Mapping[str, tuple[str, tuple[str, ...]]]

    @property
    def searchable(self) -> tuple[str, ...] | None:
        """The options that ``[space]`` and ``[[points]]`` may use; None: any name."""
        if self.options is None:
            return None
        return tuple(name for name in self.options if name not in self.study_wide)


BUILT_IN_OPTIONS = OptionTable(config_class=Config, options=OPTIONS, study_wide=STUDY_WIDE, used_by=USED_BY)
FINAL_OPTIONS = replace(BUILT_IN_OPTIONS, config_class=FinalConfig)
CUSTOM_OPTIONS = OptionTable(config_class=CustomConfig, options=None, study_wide=("objective",), used_by={})


def option_table(train: Mapping[str, Any]) -> OptionTable:
    """Return the options that a study may use: any name if ``train`` has an "objective".

    Args:
        train: The study's ``[train]`` table.
    """
    return CUSTOM_OPTIONS if "objective" in train else BUILT_IN_OPTIONS
