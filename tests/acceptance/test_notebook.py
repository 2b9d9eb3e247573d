"""A study in a real Jupyter kernel: it shows itself, runs there, and can be interrupted."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from tests.support.workplace import ROOT

CELLS = [
    """
import hpo

def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        yield epoch * config.lr, None

table = {"name": "here", "train": {"objective": "__main__:climb", "epochs": 2},
         "space": {"lr": [0.1, 0.2]}, "search": {"trials": 2, "sampler": "random", "pruner": "none"}}
study = hpo.create(table)
study.run(objective=climb)
""",
    "study",
    "study.trials() + study.best()",
    "study.retry(trial=7)",
    """
import os, signal, threading, time
import own

table["train"]["objective"] = "own:climb"
other = hpo.create(table, "elsewhere", {"train.epochs": 100})

def interrupt():
    while not any(trial.intermediate_values for trial in other.trials()):
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    other.run("cpu")
except KeyboardInterrupt:
    print("interrupted,", other.status().trials["waiting"], "wait")
""",
]
OWN = """
import time

def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        time.sleep(0.5)
        yield epoch * config.lr, None
"""
RUN = """
import json, sys
import nbclient, nbformat

cells = [nbformat.v4.new_code_cell(text) for text in json.load(sys.stdin)]
notebook = nbformat.v4.new_notebook(cells=cells)
nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", allow_errors=True).execute()
print(json.dumps([cell.outputs for cell in notebook.cells]))
"""


def text_of(outputs, stream):
    return "".join(each["text"] for each in outputs if each.get("name") == stream)


def test_a_study_shows_itself_runs_and_is_interrupted_in_a_notebook(workplace):
    if importlib.util.find_spec("nbclient") is None or importlib.util.find_spec("ipykernel") is None:
        assert os.environ.get("CI") != "true", "install the extra dev"
        pytest.skip("needs nbclient and ipykernel: install the extra dev")
    (workplace.path / "own.py").write_text(OWN)
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=workplace.path,
        env={**workplace.environment, "PYTHONPATH": str(ROOT)},
        input=json.dumps(CELLS),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ran, shown, records, refused, interrupted = json.loads(done.stdout.splitlines()[-1])
    (live,) = ran  # nothing else: no line for each epoch, and no warning of what is imported
    assert "<b>here</b> is <b>complete</b>: 2 complete of 2" in live["data"]["text/html"]
    (result,) = shown
    assert "<b>here</b> is <b>complete</b>: 2 complete of 2" in result["data"]["text/html"]
    assert result["data"]["text/plain"].startswith("hpo.Study('here', store=")
    lines = records[0]["data"]["text/plain"].splitlines()
    assert len(lines) == 3, "a record has one line"
    kinds = [re.fullmatch(r".(\w+)\(.*params={'lr': 0\.[12]}, \.\.\.\)[],]", each)[1] for each in lines]
    assert kinds == ["StudyTrial", "StudyTrial", "BestSetting"]
    (error,) = refused
    (line,) = error["traceback"]
    assert line.startswith("StoreError: ")
    (live,) = (each for each in interrupted if each["output_type"] == "display_data")
    assert "<b>elsewhere</b> is" in live["data"]["text/html"]
    assert text_of(interrupted, "stdout") == "interrupted, 2 wait\n"
    err = text_of(interrupted, "stderr")
    assert "stopped with 0 of 2 trials done; call run() again to continue" in err
    assert "\x1b[" not in err, "a worker has drawn a bar into its pipe"
