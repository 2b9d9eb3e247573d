"""The layout of tests: a folder per package, shared helpers in support/, nothing private of hpo."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.workplace import ROOT

FILES = sorted(path for path in (ROOT / "tests").rglob("*.py") if "data" not in path.parts)
OF_OPTUNA = {"_storage", "_study_id", "_trial_id"}  # private to Optuna's studies and trials, too


def imported(path: Path) -> list[tuple[str, str]]:
    """Return the module and the name of each import of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(each.name, "") for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module or "", each.name) for each in node.names]
    return found


def is_private(name: str) -> bool:
    """Return whether a name begins with one "_"; ``_repr_html_`` is IPython's, and public."""
    return (
        name.startswith("_") and name.strip("_") != "" and not (name.startswith("__") or name.endswith("_"))
    )


def is_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def defined_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of functions, classes, variables and attributes that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            yield node.attr


def names_of_others(path: Path) -> Iterator[str]:
    """Yield the names that a module imports from hpo, or uses of objects that may be hpo's."""
    tree, others = ast.parse(path.read_text()), {"self", "cls"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("hpo", "tests"):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            others |= {alias.asname or alias.name for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in others):
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # a name for monkeypatch.setattr


def test_no_test_imports_another_test():
    for path in FILES:
        for module, name in imported(path):
            words = [*module.split("."), name]
            if words[0] == "tests":
                found = [word for word in words if word.startswith(("test_", "conftest"))]
                assert not found, (path, module, name)


def test_no_test_or_benchmark_uses_a_private_name_of_hpo():
    private = {
        name
        for path in (ROOT / "hpo").rglob("*.py")
        for name in [path.stem, *defined_names(ast.parse(path.read_text()))]
        if is_private(name)
    }
    assert len(private) > 100
    private -= OF_OPTUNA
    for path in [*FILES, *(ROOT / "benchmarks").glob("*.py")]:
        found = private & set(names_of_others(path))
        assert not found, f"{path.relative_to(ROOT)}: {sorted(found)}"


def test_every_folder_of_tests_is_a_package_of_hpo_or_listed_here():
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.glob("*.py"))}
    packages = {path.parent.name for path in (ROOT / "hpo").glob("*/__init__.py")}
    assert folders == packages | {"acceptance", "benchmarks", "docs", "engines", "support"}
