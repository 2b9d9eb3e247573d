"""A study file is stored below its flags, and shown with what they changed."""

import tomllib

import pytest

from hpo.study.file import load_study_text
from hpo.study.source_text import annotate_source, effective_text

FILE = """# Costs a minute.
# hpo run small

name = "small"

[train]
dataset = "digits"
image_size = 32

[space]
lr = { low = 0.001, high = 0.1 }

[[points]]
lr = 0.5
image_size = 64
"""


def test_the_stored_text_is_the_file_below_the_flags():
    stored = annotate_source(FILE, ["train.epochs=1", "space.lr=[\n0.1]"], "replay")
    assert stored == f"# --name replay\n# --set train.epochs=1\n# --set space.lr=[ 0.1]\n{FILE}"
    assert tomllib.loads(stored) == tomllib.loads(FILE)


def test_what_flags_changed_is_marked():
    shown = effective_text(annotate_source(FILE, ["train.imgsz=16", "search.n_trials=8"], "replay"))
    assert (
        shown
        == """# --name replay
# --set train.imgsz=16
# --set search.n_trials=8
# Costs a minute.
# hpo run small

name = "replay"  # by a flag

[train]
dataset = "digits"
image_size = 16  # by a flag

[space]
lr = { low = 0.001, high = 0.1 }

[[points]]
lr = 0.5

[search]  # by a flag
trials = 8  # by a flag"""
    )


def test_what_is_shown_is_the_study_that_ran():
    sets = ["train.image_size=16", "search.trials=8", "space.batch_size=[8, 16]"]
    text = FILE.partition("[[points]]")[0]
    ran = load_study_text(text, "small.toml", sets, "replay")
    assert load_study_text(effective_text(annotate_source(text, sets, "replay")), "shown") == ran


@pytest.mark.parametrize("text", ["", FILE, "# --set train.epochs=1\nno toml", "# --set nonsense\n" + FILE])
def test_a_text_without_flags_or_that_cannot_be_read_stays(text):
    assert effective_text(text) == text
