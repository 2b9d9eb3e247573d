"""What a custom objective prints and logs: whole lines on stderr, with the number of its trial."""

import contextlib
import io
import logging
import sys
import threading
from collections.abc import Iterator

import pytest

from hpo.training.custom import CustomRun
from hpo.training.custom_config import CustomConfig, TrialPlace
from hpo.training.objective_output import LONGEST_LINE, TrialOutput
from tests.support.log_lines import parse_lines

OWN = r"""
import logging
import subprocess
import sys
import threading
import warnings

print("imported")


def speaks(config, state):
    for epoch in range(config.epochs):
        print("printed in", epoch)
        print("hpo: no error", file=sys.stderr)
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start()
        thread.join()
        logging.getLogger("deep.down").info("logged in %d", epoch)
        logging.getLogger("deep.down").debug("not shown")
        warnings.warn("warned")
        subprocess.run(["echo", "from a process"], stdout=sys.stdout, check=True)
        print("unfinished", end="")
        yield 0.5, None
"""

STUDY = """
[train]
objective = "own:speaks"
epochs = 2
[search]
sampler = "grid"
[[points]]
kind = "a"
[[points]]
kind = "b"
"""


@contextlib.contextmanager
def no_handlers() -> Iterator[None]:
    """Let nobody take records, as in a process without pytest."""
    before, logging.root.handlers = logging.root.handlers, []
    try:
        yield
    finally:
        logging.root.handlers = before


def test_what_an_objective_prints_and_logs_has_the_number_of_its_trial(place):
    done = place.hpo("run", place.study(STUDY), "--devices", "cpu:1")
    lines = parse_lines(done.err)
    assert str(lines[0]) == "output: imported"  # by the command itself, to check the study
    for number in (0, 1):
        of_trial = [line for line in lines if line.trial == str(number)]
        (warned, *_) = [line for line in of_trial if line.level == "WARNING"]
        assert str(warned).startswith("own: UserWarning: warned (")
        shown = [str(line) for line in of_trial if line.source != "hpo" and line.level == "INFO"]
        imported = ["objective: imported"] * (number == 0)  # a module is imported once
        assert shown == imported + [
            text
            for epoch in (0, 1)
            for text in (
                f"objective: printed in {epoch}",
                "objective: hpo: no error",
                "objective: from a thread",
                f"deep: logged in {epoch}",
                "output: from a process",
                "objective: unfinished",
            )
        ]
        assert sum(line.message.startswith(f"trial {number} epoch ") for line in of_trial) == 2
    assert "printed" not in done.out


def test_lines_of_threads_do_not_mix_and_a_process_gets_its_streams_back(capsys):
    before, output = (sys.stdout, sys.stderr), TrialOutput(3)
    turn = threading.Barrier(2)

    def speak(name: str) -> None:
        for word in ("a ", "b ", "c\n"):
            turn.wait()
            print(f"{name} {word}", end="")

    with output.redirect(), output.call():
        threads = [threading.Thread(target=speak, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print("main", end="", flush=True)
    assert (sys.stdout, sys.stderr) == before
    shown = capsys.readouterr()
    assert sorted(shown.err.splitlines()) == [
        "trial 3: main",
        "trial 3: one a one b one c",
        "trial 3: two a two b two c",
    ]
    assert shown.out == ""


def test_what_hpo_writes_while_an_objective_waits_is_its_own(capsys):
    output = TrialOutput(3)
    with no_handlers(), output.redirect():
        with output.call():
            logging.getLogger("hpo").warning("of the objective's process")
            logging.getLogger("hpo.training").info("not shown")
        print("a result")
        print("an event", file=sys.stderr)
        logging.getLogger("a.library").info("not shown")
        logging.getLogger("a.library").warning("of a library")
        thread = threading.Thread(target=logging.getLogger("other").info, args=("of a thread",))
        thread.start()
        thread.join()
    assert logging.root.level == logging.WARNING
    shown = capsys.readouterr()
    assert shown.out == "a result\n"
    assert shown.err.splitlines() == [
        "of the objective's process",
        "an event",
        "of a library",
        "trial 3: INFO:other:of a thread",
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\n\nb\n", ["a", "", "b"]),
        ("\r 10%\r 20%\r100%\n", ["100%"]),
        ("\r 10%\r     \rdone\n", ["done"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("\r 10%\r 20%", [" 20%"]),
        ("\x1b[31mred\x1b[0m\n\x1b[1A\x1b[2Kup\n", ["red", "up"]),
        ("", []),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_whole_lines_are_shown_as_a_terminal_would(capsys, text, lines, at_once):
    output = TrialOutput(None)
    with output.redirect(), output.call():
        for part in [text] if at_once else text:
            sys.stdout.write(part)
    assert capsys.readouterr().err.splitlines() == lines


def test_a_long_line_is_written_before_it_ends(capsys):
    output = TrialOutput(3)
    with output.redirect(), output.call():
        for text in ("x" * LONGEST_LINE, "y", "z"):
            sys.stdout.write(text)
    assert capsys.readouterr().err == f"trial 3: {'x' * LONGEST_LINE}y\ntrial 3: z\n"


def test_a_handler_made_while_a_module_is_imported_writes_for_later_trials(capsys):
    first, second = TrialOutput(1), TrialOutput(2)
    with no_handlers():
        with first.redirect(), first.call():
            logging.basicConfig(format="%(message)s")
        with second.redirect(), second.call():
            logging.warning("second")
        logging.warning("none")
    assert capsys.readouterr().err == "trial 2: second\nnone\n"


def test_a_stream_that_somebody_has_replaced_since_stays(monkeypatch):
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    with TrialOutput(0).redirect():
        sys.stdout = replaced
    assert sys.stdout is replaced


def test_a_run_that_is_left_unfinished_gives_the_streams_back(tmp_path, monkeypatch):
    (tmp_path / "left_objective.py").write_text("def run(config, state):\n    yield 0.5, None\n")
    monkeypatch.chdir(tmp_path)
    before = sys.stdout, sys.stderr, logging.lastResort
    place = TrialPlace(device="cpu", trial=0, folder=tmp_path)
    epochs = CustomRun(CustomConfig(objective="left_objective:run"), place=place).epochs()
    next(epochs)
    assert sys.stdout is not before[0]
    epochs.close()
    assert (sys.stdout, sys.stderr, logging.lastResort) == before
