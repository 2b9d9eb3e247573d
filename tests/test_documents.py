"""README, ARCHITECTURE and CONTRIBUTING agree with the code."""

import re

import typer

from hpo.cli.main import app
from hpo.study.search_options import Search
from hpo.training import config
from tests.support.workplace import ROOT

README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_every_option_has_its_row_in_the_readme_with_its_default():
    for name, field in config.Config.model_fields.items():
        row = re.search(rf"^\| `{name}` \| (.*?) \|", README, re.MULTILINE)
        assert row, f"{name} has no row"
        shown = row[1].replace("`", "").replace('"', "")
        default = shown if field.default is None else str(field.default)
        default = default.lower() if isinstance(field.default, bool) else default
        assert shown == default, name
    for name in Search.model_fields:
        assert re.search(rf"^\| `{name}` \|", README, re.MULTILINE), name


def test_study_wide_options_are_marked_in_the_readme():
    for name in config.OPTIONS:
        row = re.search(rf"^\| `{name}` \|.*$", README, re.MULTILINE)
        assert row
        assert ("*study*" in row[0]) == (name in config.STUDY_WIDE), name


def test_every_command_is_in_the_readme():
    for name in typer.main.get_command(app).commands:
        assert re.search(rf"`(hpo )?{name}\b", README), name


def test_no_file_names_a_path_of_the_development_machine():
    documents = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb"))
    for path in (*documents, *ROOT.glob("hpo/**/*.py"), *ROOT.glob("studies/*"), ROOT / "Makefile"):
        assert "/work/" not in path.read_text(), path


def test_every_row_of_what_can_die_names_an_existing_test():
    table = README.partition("## What can die, and what happens")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \|$", table, re.MULTILINE)[2:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(test_\w+)`: ([^;|]+)", row.rpartition(" | ")[2])
        assert named, row
        for module, words in named:
            (path,) = (ROOT / "tests").glob(f"**/{module}.py")
            begins = "def test_" + words.strip().replace(" ", "_")
            assert begins in path.read_text(), (module, words)


def test_every_module_is_listed_in_the_architecture():
    for package in sorted(path.parent for path in (ROOT / "hpo").glob("*/__init__.py")):
        section = ARCHITECTURE.partition(f"### `hpo/{package.name}/`")[2].partition("\n### ")[0]
        named = re.findall(r"^\| `(\w+)\.py` \|", section, re.MULTILINE)
        assert sorted(named) == sorted(path.stem for path in package.glob("[!_]*.py")), package.name


def test_names_in_the_architecture_and_contributing_exist():
    code = "\n".join(path.read_text() for path in (ROOT / "hpo").glob("**/*.py"))
    table = ARCHITECTURE.partition("## Where to find what")[2].partition("\n## ")[0]
    steps = CONTRIBUTING.partition("## Add an option")[2]
    assert table
    assert steps
    for text in (table, steps):
        for name in re.findall(r"`([A-Za-z_][\w.]*)`", text):
            assert re.search(rf"\b{re.escape(name.rpartition('.')[2])}\b", code), name
        for path in re.findall(r"`((?:hpo|tests)/[\w/]+\.py)`", text):
            assert (ROOT / path).is_file(), path


def test_no_document_or_message_installs_the_other_hpo_of_pypi():
    installs_other_package = re.compile(r"pip install(?: [^\n`]*)?[ '\"]hpo(?:[\['\"]|\s|$)")
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("storage/*"),
        *ROOT.glob("hpo/**/*.py"),
        ROOT / "Containerfile",
    ):
        if path.is_file() and path.suffix != ".db":
            assert not installs_other_package.search(path.read_text()), path
