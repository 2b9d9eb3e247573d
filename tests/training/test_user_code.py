"""Functions that a study names: each reason why one cannot be imported is a message of one line."""

import sys

import pytest

from hpo.errors import DefinitionError
from hpo.training.user_code import import_function

MODULES = {
    "fine": "def climb(config, state):\n    yield 0.5, None\nheight = 3\n",
    "climbing_objective": "\nimport climbing\n",
    "typo": "def climb(config, state):\n    yield 0.5 None\n",
    "divides": "def half():\n    return 1 / 0\n\nhalf()\n",
    "lines": "raise ValueError('first\\nsecond')\n",
    "script": "import sys\nsys.exit('usage: script FILE')\n",
    "reads": "open('absent.csv')\n",
}
RUN = "for its traceback run: python -c 'import"
WORK = "let it define the function only, and do its work when it is called"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "__main__:climb",
            "'__main__:climb' is a function of a notebook or a script, which ",
        ),
        ("absent_module:climb", "no module 'absent_module' in "),
        ("fine.part:climb", "no module 'fine.part' in "),
        ("fine:clmb", "module 'fine' has no function 'clmb'; did you mean 'climb'?"),
        ("fine:height", "module 'fine' has no function 'height'"),
        (
            "climbing_objective:climb",
            "importing module 'climbing_objective' raised ModuleNotFoundError: No module named 'climbing' "
            f"(climbing_objective.py, line 2); {RUN} climbing_objective'",
        ),
        (
            "typo:climb",
            f"importing module 'typo' raised SyntaxError: invalid syntax (typo.py, line 2); {RUN} typo'",
        ),
        (
            "divides:half",
            "importing module 'divides' raised ZeroDivisionError: division by zero (divides.py, line 2); "
            f"{RUN} divides'",
        ),
        ("lines:f", f"importing module 'lines' raised ValueError: first (lines.py, line 1); {RUN} lines'"),
        (
            "script:climb",
            f"importing module 'script' raised SystemExit: usage: script FILE (script.py, line 2); {WORK}",
        ),
        (
            "reads:climb",
            "importing module 'reads' raised FileNotFoundError: [Errno 2] No such file or directory: "
            f"'absent.csv' (reads.py, line 1); {WORK}",
        ),
    ],
)
def test_what_cannot_be_imported_is_a_message_of_one_line(tmp_path, monkeypatch, name, message):
    for module, text in MODULES.items():
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DefinitionError) as error:
        import_function("train.objective", name)
    assert str(error.value).startswith(f"train.objective: {message}")
    assert "\n" not in str(error.value)
