"""The layout of tests: a folder per package, shared helpers in support/, no private imports."""

import ast
from pathlib import Path

from tests.support.workplace import ROOT

FILES = sorted(path for path in (ROOT / "tests").rglob("*.py") if "data" not in path.parts)


def imported(path: Path) -> list[tuple[str, str]]:
    """Return the module and the name of each import of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(each.name, "") for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", each.name) for each in node.names]
    return found


def test_no_test_imports_another_test_or_a_private_name():
    for path in FILES:
        for module, name in imported(path):
            words = [*module.split("."), name]
            if words[0] == "tests":
                assert not any(word.startswith(("test_", "conftest")) for word in words), (
                    path,
                    module,
                    name,
                )
            if words[0] == "hpo":
                assert not any(word.startswith("_") for word in words), (path, module, name)


def test_every_folder_of_tests_is_a_package_of_hpo_or_listed_here():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    packages = {path.parent.name for path in (ROOT / "hpo").glob("*/__init__.py")}
    assert folders == packages | {"acceptance", "engines", "support"}
