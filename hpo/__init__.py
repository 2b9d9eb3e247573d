"""Hyperparameter optimization for people who fine-tune vision models.

``import hpo`` imports nothing else. What it offers is imported when it is first used.
"""

import importlib
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.api.creation import create
    from hpo.api.model import Model
    from hpo.api.study import Study, load
    from hpo.api.study import list_studies as studies
    from hpo.errors import HpoError

__all__ = ["HpoError", "Model", "Study", "create", "load", "studies"]
__version__ = "0.1.0"

_PLACES = {
    "HpoError": "hpo.errors:HpoError",
    "Model": "hpo.api.model:Model",
    "Study": "hpo.api.study:Study",
    "create": "hpo.api.creation:create",
    "load": "hpo.api.study:load",
    "studies": "hpo.api.study:list_studies",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'hpo' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _PLACES[name].partition(":")
    with warnings.catch_warnings():  # of tqdm, which Optuna imports and hpo draws nothing with
        warnings.filterwarnings("ignore", "IProgress not found")
        return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
