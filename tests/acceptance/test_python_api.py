"""What the README shows of Python runs as a script."""

import re
import subprocess
import sys

import pytest
from PIL import Image

import hpo
from tests.support.databases import closed_engines
from tests.support.workplace import ROOT

README = (ROOT / "README.md").read_text()


def code_blocks(heading: str) -> list[str]:
    """Return the Python code below a heading of the README that imports hpo."""
    section = README.partition(f"\n{heading}\n")[2]
    level = heading.partition(" ")[0]
    section = re.split(rf"\n{level} ", section)[0]
    return [code for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "import hpo" in code]


@pytest.mark.parametrize(
    ("heading", "name"),
    [("## From Python or a notebook", "mine"), ("### Your own objective", "climbs")],
)
def test_the_readmes_script_runs_and_completes_its_study(workplace, heading, name):
    (code,) = code_blocks(heading)
    (workplace.path / "script.py").write_text(code)
    Image.new("RGB", (40, 30), "white").save(workplace.path / "photo.jpg")
    command = [sys.executable, "script.py"]
    environment = {**workplace.environment, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=workplace.path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with closed_engines():
        study = hpo.load(name, f"sqlite:///{workplace.path}/storage/hpo.db")
        assert study.status().state == "complete"
        assert study.best()
