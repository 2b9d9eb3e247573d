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

from hpo.errors import DefinitionError, error_text, escape_surrogates, suggestion


def import_function(option: str, name: str) -> Callable[..., Any]:
    """Import a function; the working directory is put first in ``sys.path`` if it is not in it.

    What the module prints goes to stderr. KeyboardInterrupt passes through.

    Args:
        option: The option that names the function, for error messages: ``train.objective``.
        name: ``package.module:function``.

    Raises:
        DefinitionError: If the module does not exist, raises an error while it is imported, or has no
            callable of this name.
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
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise DefinitionError(f"{option}: {_explain(error, module_name)}") from error
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(function):
        meant = suggestion(function_name, [each for each, value in vars(module).items() if callable(value)])
        raise DefinitionError(f"{option}: module '{module_name}' has no function '{function_name}'{meant}")
    return function


def _explain(error: BaseException, module_name: str) -> str:
    """Return why a module cannot be imported, as one line: what it raised, and where."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module_name}.".startswith(f"{missing}."):
        return f"no module '{missing}' in {Path.cwd()} or in the environment; want package.module:function"
    raised = f"{type(error).__name__}: {error_text(error)}".partition("\n")[0]
    frames = [each for each in traceback.extract_tb(error.__traceback__) if _is_users(each.filename)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, Exception) and not isinstance(error, OSError):
        advice = f"for its traceback run: python -c 'import {module_name}'"
    else:
        advice = "let it define the function only, and do its work when it is called"
    return f"importing module '{module_name}' raised {raised}{where}; {advice}"


def _is_users(file: str) -> bool:
    """Return whether a frame of a traceback is neither ours nor one of Python's import system."""
    return not file.startswith("<frozen ") and Path(file) not in (Path(__file__), Path(importlib.__file__))


def describe_error(error: BaseException) -> str:
    """Return the class and the text of an error, in one string without surrogates."""
    return escape_surrogates("".join(traceback.format_exception_only(error)).strip())
