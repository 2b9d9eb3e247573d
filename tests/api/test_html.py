"""A study as HTML in a notebook."""

import re
from xml.etree import ElementTree

import pytest

import hpo
from tests.support.api_study import STUDY, climb


def fragment(study):
    """Return the parsed HTML, which is well-formed XML, too."""
    return ElementTree.fromstring(study._repr_html_())


def test_a_new_study_says_what_waits(study):
    text = "".join(fragment(study).itertext())
    assert "small is idle: 4 waiting of 4" in text
    assert "no trial is complete yet" in text
    assert fragment(study).find(".//svg") is None


def test_a_study_shows_its_best_setting_and_a_dot_per_trial(study):
    study.run(objective=climb, progress=False)
    page, (best,) = fragment(study), study.best()
    text = "".join(page.itertext())
    assert f"trial {best.trial}, accuracy {best.value:.4f}" in text
    assert "4 complete of 4" in text
    dots = page.findall(".//circle")
    assert len(dots) == 4
    heights = {
        int(re.findall(r"trial (\d+)", dot.find("title").text)[0]): float(dot.get("cy")) for dot in dots
    }
    values = {trial.number: trial.value for trial in study.trials()}
    assert sorted(heights, key=heights.get) == sorted(values, key=values.get, reverse=True)


def test_names_cannot_add_markup(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = {"space.kind": ["<b>", "&"]}
    study = hpo.create(STUDY, "<script>alert(1)<!script>", overrides, store=url)
    study.run(objective=climb, progress=False)
    assert "<script>" not in study._repr_html_()
    assert "<script>alert(1)<!script> is complete" in "".join(fragment(study).itertext())


def test_colours_are_those_of_the_page(study):
    study.run(objective=climb, progress=False)
    html = study._repr_html_()
    assert "background" not in html
    assert not re.search(r"(?<![-\w])color:", html)
    assert "currentColor" in html


def test_repr_is_one_line_without_a_password(study):
    assert repr(study).startswith("hpo.Study('small', store='")
    assert "\n" not in repr(study)


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_repr_hides_the_password(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = hpo.create(STUDY, store=url.replace("postgres@", "postgres:secret@"))
    assert "secret" not in repr(study)
