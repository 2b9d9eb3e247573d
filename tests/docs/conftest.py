"""The documentation site, built once for all its tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workplace import ROOT


def build_site(folder: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert (built.returncode, built.stdout, built.stderr) == (0, "", "")


@pytest.fixture(scope="session")
def site(once) -> Path:
    return once("site", build_site)
