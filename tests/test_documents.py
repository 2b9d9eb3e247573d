"""README and ARCHITECTURE say what is there."""

import re

import typer

from hpo.cli.main import app
from hpo.study.definition import Search
from hpo.training import config
from tests.support.workplace import ROOT

README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()


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
    for path in (*ROOT.glob("*.md"), *ROOT.glob("hpo/**/*.py"), *ROOT.glob("studies/*"), ROOT / "Makefile"):
        assert "/work/" not in path.read_text(), path


def test_every_row_of_what_can_die_names_a_test_that_is_there():
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
