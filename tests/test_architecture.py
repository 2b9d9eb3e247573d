"""The packages: what may import what, how long files and functions are, and which words are gone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpo

ROOT = Path(hpo.__file__).parents[1]
SOURCES = sorted((ROOT / "hpo").rglob("*.py"))

# From the top. What stands in one row may not import one another.
LAYERS = (
    ("cli",),
    ("report", "dashboard", "export"),
    ("original",),
    ("analysis",),
    ("workers",),
    ("store",),
    ("search",),
    ("study",),
    ("training",),
    ("artifacts",),
    ("retry",),
    ("errors",),
)
LEVELS = {package: level for level, row in enumerate(LAYERS) for package in row}
ENTRY_POINTS = {"__init__", "__main__"}  # hpo/__init__.py and hpo/__main__.py


def module_name(path: Path) -> str:
    """Return a file's dotted name, such as ``hpo.store.lease``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in SOURCES}


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the full name of every import in a file, wherever it stands.

    Imports within functions and under TYPE_CHECKING count like those at the top.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in MODULES else str(node.module)


def package_of(module: str) -> str:
    """Return the package of a module below hpo: ``store`` of ``hpo.store.lease``."""
    return module.split(".")[1] if "." in module else "__init__"


def package_imports() -> Iterator[tuple[str, str, str]]:
    """Yield where a package imports another one of hpo, its name, and the other one's name."""
    for path in SOURCES:
        package = package_of(module_name(path))
        for line, name in imported_modules(path):
            if name == "hpo" or name.startswith("hpo."):
                other = package_of(name)
                if other not in {package, *ENTRY_POINTS}:
                    yield f"{path.relative_to(ROOT)}:{line}", package, other


def test_every_package_has_a_layer():
    found = {package_of(module_name(path)) for path in SOURCES}
    assert found - ENTRY_POINTS == set(LEVELS)


def test_packages_import_only_packages_below_them():
    upward = [
        f"{place}: hpo.{package} imports hpo.{other}"
        for place, package, other in package_imports()
        if package not in ENTRY_POINTS and LEVELS[other] <= LEVELS[package]
    ]
    assert not upward, "\n".join(upward)


def test_imports_between_packages_have_no_circle():
    below: dict[str, set[str]] = {}
    for _, package, other in package_imports():
        below.setdefault(package, set()).add(other)
    while leaves := [package for package, others in below.items() if not others & below.keys()]:
        for package in leaves:
            del below[package]
    assert not below, f"these packages import one another in a circle: {below}"


@pytest.mark.parametrize("library", ["optuna", "sqlalchemy"])
def test_training_does_not_import(library):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in SOURCES
        if package_of(module_name(path)) == "training"
        for line, name in imported_modules(path)
        if name.split(".")[0] == library
    ]
    assert not found, "\n".join(found)
