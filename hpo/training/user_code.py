"""Importing the functions that a study names: a custom objective, or a network of the user's own.

They are named ``package.module:function``. Modules are looked for in the working directory first.
"""

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpo.errors import DefinitionError, escape_surrogates


def import_function(option: str, name: str) -> Callable[..., Any]:
    """Import a function; the working directory is put first in ``sys.path`` if it is not in it.

    What the module prints goes to stderr. Errors that it raises while it is imported pass through, except
    OSError and those that are no ``Exception``.

    Args:
        option: The option that names the function, for error messages: ``train.objective``.
        name: ``package.module:function``.

    Raises:
        DefinitionError: If the module does not exist, has no callable of this name, or raises an OSError or
            SystemExit.
    """
    module_name, _, function_name = name.partition(":")
    if module_name == "__main__":
        raise DefinitionError(
            f"{option}: '{name}' is a function of a notebook or a script, which workers cannot "
            f"import; put it into a file in {Path.cwd()}, such as own.py, and name it own:{function_name}"
        )
    # A function that has been imported may have changed the working directory since.
    if module_name not in sys.modules and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but one of its own imports does not
        raise DefinitionError(
            f"{option}: no module '{error.name}' in {Path.cwd()} or in the environment; "
            "want package.module:function"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise
        raise DefinitionError(
            f"{option}: importing module '{module_name}' raised {describe_error(error)}; let it define "
            "the function only, and do its work when it is called"
        ) from error
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise DefinitionError(f"{option}: module '{module_name}' has no function '{function_name}'")
    return function


def describe_error(error: BaseException) -> str:
    """Return the class and the text of an error, in one string without surrogates."""
    return escape_surrogates("".join(traceback.format_exception_only(error)).strip())
