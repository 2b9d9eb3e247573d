"""README, ARCHITECTURE and CONTRIBUTING agree with the code."""

import re

from tests.support.workplace import ROOT

README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_readme_is_one_page():
    assert len(README.split()) <= 1200


def test_files_that_the_readme_links_exist():
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(linked) > 20
    for name in linked:
        assert (ROOT / name).is_file(), name


def test_no_file_names_a_path_of_the_development_machine():
    documents = (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb"))
    for path in (*documents, *ROOT.glob("hpo/**/*.py"), *ROOT.glob("studies/*"), ROOT / "Makefile"):
        assert "/work/" not in path.read_text(), path


def test_every_row_of_what_can_die_names_an_existing_test():
    page = (ROOT / "docs/explanation/survival.md").read_text()
    table = page.partition("## What can die, and what happens")[2].partition("\n## ")[0]
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
