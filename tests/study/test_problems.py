"""Everything that is wrong in a study file is told at once."""

import pytest

from hpo.errors import DefinitionError
from hpo.study import file


def refusal(tmp_path, text: str, *sets: str) -> list[str]:
    """Return the problems that a study file is refused for, without the file's name in front."""
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(DefinitionError) as caught:
        file.load_study_file(path, sets)
    lines = [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]
    numbered = "; ".join(f"({number}) {line}" for number, line in enumerate(lines, 1)).replace("?; ", "? ")
    if len(lines) > 1 and not sets:
        assert str(caught.value) == f"{path}: {len(lines)} problems: {numbered}"
    return lines


def test_the_problems_of_every_table_are_told_at_once(tmp_path):
    text = """
        name = "a/b"
        spaces = 1
        [train]
        dataset = "digits"
        epoch = 3
        lr = "fast"
        [space]
        optimizer = ["sgd", "adamm"]
        momentums = [0.9]
        momentum = { low = 0.9 }
        [search]
        trials = 0.5
        sampler = { nam = "tpe", seed = "x" }
    """
    begins = (
        "spaces is not an option; did you mean 'space'? options: ",
        "name: want 1 to 100 printable characters",
        "train.epoch is not an option; did you mean 'epochs'? 'hpo schema' ",
        "train.lr: want a number",
        "space.momentums is not an option; did you mean 'momentum'? 'hpo schema' ",
        "space.optimizer[2]: found 'adamm'; did you mean 'adam'? allowed: ",
        "space.momentum: high is missing",
        "search.trials: want a whole number",
        "search.sampler.nam is not an option; did you mean 'name'? options: ",
        "search.sampler.seed: want a whole number",
    )
    told = refusal(tmp_path, text)
    assert len(told) == len(begins), told
    for line, begin in zip(told, begins, strict=True):
        assert line.startswith(begin), line


def test_where_the_allowed_keys_are_is_told_once_for_several_unknown_ones(tmp_path):
    first, second = refusal(tmp_path, "[train]\nepoch = 3\nmodle = 'alexnet'\n")
    assert first == "train.epoch is not an option; did you mean 'epochs'?"
    assert second.startswith("train.modle is not an option; did you mean 'model'? 'hpo schema' ")


def test_the_problems_of_all_points_and_of_all_conditions_are_told_at_once(tmp_path):
    grid = "[search]\nsampler = 'grid'\n"
    points = "[[points]]\nlr = -1.0\n[[points]]\nlr = 0.1\n[[points]]\noptimizer = 'adam'\nmomentum = 0.5\n"
    first, second = refusal(tmp_path, grid + points)
    assert first.startswith("points[1].lr: want a number")
    assert second.startswith("points[3].momentum: optimizer 'adam' has no momentum")

    space = "[space]\noptimizer = ['adam']\nmomentum = [0.1]\nschedule = ['step']\nwarmup_epochs = [1]\n"
    unused = "gamma = { choices = [0.1], when = { schedule = 'cosine' } }\n"
    told = refusal(tmp_path, space + unused)
    assert [line.partition(":")[0] for line in told] == ["space.momentum", "space.gamma.when.schedule"]

    outside = "[space]\nlr = { low = 0.1, high = 0.2 }\n[search]\ntrials = 1\n"
    two = refusal(tmp_path, outside + "[[points]]\nlr = 0.3\n[[points]]\nlr = 0.05\n[[points]]\nlr = 0.1\n")
    assert [line.partition(":")[0] for line in two] == ["points[1].lr", "points[2].lr"]


def test_every_set_that_is_wrong_is_told(tmp_path):
    told = refusal(tmp_path, "[train]\nepochs = 3\n", "train.epochs", "train.lr=inf", "train.seed=1", "x=1")
    assert [line.partition(":")[0] for line in told] == ["--set train.epochs", "--set", "--set x=1"]


def test_a_file_beside_the_one_that_is_missing_is_suggested(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("")
    with pytest.raises(
        DefinitionError, match=r"mine\.tom: no such study file, .*; did you mean 'mine.toml'\?"
    ):
        file.find_study_file("mine.tom")
