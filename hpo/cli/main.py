"""The command ``hpo``: the application, its general options and its exit codes.

A verb is a function that reads its options, calls the module that does the work, and shows the result.
Results go to stdout; progress and errors go to stderr. The verbs are in ``run``, ``control``, ``results``,
``pages``, ``data`` and ``planning``.

Verbs import heavy modules inside their functions, so that ``hpo --help`` responds at once. The docstring of
a verb is its help text, so it has no section for arguments: the options have help texts of their own.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import hpo
from hpo import logs
from hpo.cli import control, data, events, pages, planning, results, run
from hpo.cli.verbs import GROUPS, HELP, general_help
from hpo.errors import QUOTED_LENGTH, HpoError, quote_value, shorten
from hpo.workers.supervisor import kill_descendants

USAGE_LENGTH = 4 * QUOTED_LENGTH  # characters of what is wrong with the words on the command line
_UsageError: Any = typer.BadParameter.__bases__[0]  # typer has no public name for it


class _Verbs(TyperGroup):
    """The verbs, in the order of their groups. In their usage errors a long word is shortened."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: GROUPS.index(HELP[name].group))

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _short_usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _short_usage_errors():
            return super().invoke(ctx)


@contextlib.contextmanager
def _short_usage_errors() -> Iterator[None]:
    """Shorten the message of typer's errors, which quote words of any length, before typer prints them."""
    try:
        yield
    except _UsageError as error:
        error.message = shorten(error.message, USAGE_LENGTH)
        raise


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=general_help(
        "hpo run quickstart", "hpo status quickstart --watch", "hpo report quickstart -o report.html"
    ),
)
for verbs in (run, control, results, events, pages, data, planning):
    app.add_typer(verbs.app)


THREAD_SECONDS = 2.0  # that threads of the user's code have to end by themselves


def main() -> None:
    """Run the command line, then end this process whatever a custom objective has left behind.

    The processes that it started are killed, and a thread of it does not keep this process alive.
    """
    before = set(threading.enumerate())
    code = 1
    try:
        run_command_line()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    finally:
        kill_descendants()
        threading.Thread(target=_exit_despite_threads, args=(code, before), daemon=True).start()


def _exit_despite_threads(code: int, before: set[threading.Thread]) -> None:
    """Exit at once if threads that Python waits for are still there after some seconds."""
    time.sleep(THREAD_SECONDS)
    if any(not thread.daemon and thread not in before for thread in threading.enumerate()):
        with contextlib.suppress(OSError, ValueError):  # nobody reads, or the file is closed
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_command_line() -> None:
    """Run the command line; always raises SystemExit, or what no message explains.

    Exit codes: 0 for success, 1 for an HpoError, which is printed as one line on stderr, 2 for wrong
    options, 130 after Ctrl-C. Verbs that run workers exit with 128 plus the number of the signal that
    stopped them; ``launch`` and ``worker`` with ``supervisor.EXIT_FATAL`` instead of 1 if no restart helps.
    """
    # A reader that closes the pipe (| head) ends us silently. Verbs that run workers undo this
    # (``stop_signal.StopSignal``).
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # Python's default is a garbage collection per 700 new objects. That takes an eighth of the start of a
    # worker, which creates little garbage.
    gc.set_threshold(10_000)
    try:
        with logs.restored():
            _run_verb()
    except KeyboardInterrupt:
        sys.exit(130)


def _run_verb() -> None:
    try:
        _refuse_undecodable()
        app()
    except HpoError as error:
        logs.tell_exit(str(error))
        sys.exit(1)


def _refuse_undecodable() -> None:
    """Refuse arguments and HPO_ variables that are not UTF-8: no store, file or output can hold them.

    The images of ``hpo predict`` may have any name.
    """
    settings = {key: value for key, value in os.environ.items() if key.startswith("HPO_")}
    arguments = [] if sys.argv[1:2] == ["predict"] else sys.argv[1:]
    given = [("argument", text) for text in arguments] + list(settings.items())
    for where, text in given:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise HpoError(f"{where} {quote_value(text)}: want UTF-8; rename what it names") from None


def _print_version(asked: bool) -> None:
    if asked:
        print(f"hpo {hpo.__version__}")
        raise typer.Exit


@app.callback()
def general_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Hyperparameter optimization for people who fine-tune vision models."""
