"""Allowed imports between packages, the length of files and functions, and words that are not used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpo

ROOT = Path(hpo.__file__).parents[1]
SOURCES = sorted((ROOT / "hpo").rglob("*.py"))

# From the top. Packages in the same row may not import one another.
LAYERS = (
    ("cli",),
    ("api",),
    ("dashboard",),
    ("report", "export"),
    ("original",),
    ("analysis",),
    ("workers",),
    ("store",),
    ("search",),
    ("study",),
    ("training",),
    ("artifacts",),
    ("logs",),
    ("log_records",),
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
    """Yield the line and the full name of every import in a file, anywhere in it.

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
    """Yield each import between packages of hpo: its place, the importing package, the imported package."""
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


def test_imports_between_packages_have_no_cycle():
    below: dict[str, set[str]] = {}
    for _, package, other in package_imports():
        below.setdefault(package, set()).add(other)
    while leaves := [package for package, others in below.items() if not others & below.keys()]:
        for package in leaves:
            del below[package]
    assert not below, f"these packages import one another in a cycle: {below}"


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


# Long files, long functions, and the private words of earlier versions


MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50  # from "def" to the last line, docstring included
GONE_WORDS = (
    "looks",
    "exhibit",
    "shelf",
    "precedent",
    "bygone",
    "outlast",
    "crew",
    "what came of",
    "a person's own",
)
TEXT_SUFFIXES = {".py", ".md", ".toml", ".j2", ".sql", ".typed", ".conf", ".yaml", ".yml"}


def test_files_are_short():
    others = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    lines = {path: len(path.read_text().splitlines()) for path in [*SOURCES, *others]}
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path, count in lines.items()
        if count > MAX_FILE_LINES
    ]
    assert not long, "\n".join([f"more than {MAX_FILE_LINES} lines; split these by meaning:", *long])


def test_functions_are_short():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join([f"more than {MAX_FUNCTION_LINES} lines; split these:", *long])


def documents() -> Iterator[Path]:
    """Yield the files of the package, its documents, and the shipped studies."""
    yield from (ROOT / "README.md", ROOT / "ARCHITECTURE.md")
    for folder in ("hpo", "storage", "studies", "docs"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix in TEXT_SUFFIXES)


def test_private_words_are_not_used():
    # In prose, a phrase may be broken over two lines.
    words = re.compile(
        "|".join(rf"(?<![a-z]){word}(?![a-z])" for word in GONE_WORDS).replace(" ", r"[\s#]+"),
        re.IGNORECASE,
    )
    found = []
    for path in documents():
        text = path.read_text()
        for match in words.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}: {match.group()!r}")
    assert not found, "\n".join(["use the field's term or plain English instead:", *found])
