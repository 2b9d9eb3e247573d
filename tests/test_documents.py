"""README and ARCHITECTURE say what is there."""

import re

import typer

from conftest import ROOT
from hpo import config
from hpo.cli import app
from hpo.definition import Search

README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


def test_every_file_of_the_package_has_its_line_in_the_architecture():
    named = re.findall(r"^\s*(\w+\.py) ", ARCHITECTURE, re.MULTILINE)
    there = {path.name for path in (ROOT / "hpo").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert set(named) == there
    assert len(named) == len(there), "a file is named twice"


def test_a_file_imports_only_what_stands_below_it_in_the_architecture():
    order = re.findall(r"^  (\w+)\.py ", ARCHITECTURE, re.MULTILINE)
    for place, name in enumerate(order):
        text = (ROOT / f"hpo/{name}.py").read_text()
        found = set(re.findall(r"^ *from hpo\.(\w+) import", text, re.MULTILINE))
        for names in re.findall(r"^ *from hpo import (\([^)]*\)|.*)$", text, re.MULTILINE):
            found |= {
                each.split(" as ")[0].strip() for each in names.strip("()").split(",") if each.strip()
            }
        assert not found & {*order[:place]}, f"{name}.py imports what stands above it"


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


def test_every_verb_is_in_the_readme():
    for name in typer.main.get_command(app).commands:
        assert re.search(rf"`(hpo )?{name}\b", README), name


def test_nothing_names_a_place_that_only_this_workplace_has():
    for path in (*ROOT.glob("*.md"), *ROOT.glob("hpo/*.py"), *ROOT.glob("studies/*"), ROOT / "Makefile"):
        assert "/work/" not in path.read_text(), path


def test_every_row_of_what_can_die_names_a_test_that_is_there():
    table = README.partition("## What can die, and what happens")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \|$", table, re.MULTILINE)[2:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(test_\w+)`: ([^;|]+)", row.rpartition(" | ")[2])
        assert named, row
        for module, words in named:
            begins = "def test_" + words.strip().replace(" ", "_")
            assert begins in (ROOT / "tests" / f"{module}.py").read_text(), (module, words)
