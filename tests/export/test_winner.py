"""The trial that ``hpo export`` takes: the winner of ``hpo finish``, if that has run."""

import pytest

from hpo.analysis.finish import create_finish_study, plan_finish
from hpo.export.winner import choose_winner
from hpo.store import studies
from tests.support.databases import closed_engines

OWN = """
import torch


def score(config, state):
    # The lucky setting is the better one with seeds 0 to 2 only, which the search uses.
    value = 0.8 if config.kind == "steady" else 0.9 if config.seed < 3 else 0.5
    yield value + config.seed / 1000, {"seed": torch.tensor(config.seed)}
"""

STUDY = """
[train]
objective = "own:score"
epochs = 1
kind = "steady"
[search]
sampler = "grid"
replicates = 3
[[points]]
kind = "steady"
[[points]]
kind = "lucky"
"""


def test_the_setting_that_finish_ranks_first_is_exported_and_best_says_so(place):
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    url = f"sqlite:///{place.path}/storage/hpo.db"
    with closed_engines():
        storage = studies.open_storage(url, create=False)
        before = choose_winner(storage, "small")
        assert before.study == "small"
        assert "the best of the search; 'hpo finish small' compares" in before.why
        planned = plan_finish(storage, "small", 2, 2)
        assert planned.seeds == (3, 4), "seeds that the search has not used"
        create_finish_study(storage, planned)
    assert "hpo finish" not in place.here("best", "small").out, "no run is complete"
    place.here("worker", "small-finish")

    with closed_engines():
        storage = studies.open_storage(url, create=False)
        lucky, steady = sorted(planned.settings, key=lambda each: each.params["kind"])
        for name in ("small", "small-finish"):
            found = choose_winner(storage, name)
            config = studies.read_definition(storage, found.study).points[found.trial].setting
            assert (found.study, config["kind"], config["seed"]) == ("small-finish", "steady", 3)
            assert found.why == (
                f"'hpo finish small' ranks trial {steady.trial}'s setting first: accuracy 0.8035, the mean "
                "of 2 seeds; this is its run with seed 3"
            )
        assert (before.trial, lucky.trial, lucky.best_run) == (5, 1, 5)
        assert before.why.startswith("the best of the 3 seeds of trial 1's setting, the best of")
        assert plan_finish(storage, "small", 2, 3).seeds == (3, 4, 5)

    listed = place.here("best", "small", "-n", "2", "--json").json()
    assert [(each["trial"], each["value"]) for each in listed] == [
        (each.trial, each.value) for each in planned.settings
    ]
    shown = place.here("best", "small").out
    assert "best trial 1 of study small" in shown
    assert f"'hpo finish small' ranks trial {steady.trial}'s setting first" in shown
    refused = place.here("export", "small", "--to", "winner", code=1).err
    assert "study 'small-finish' has a custom objective" in refused
    assert "0000/weights-0001" in refused or "weights-0001" in refused


@pytest.mark.parametrize(
    ("own", "replicates", "listed", "seeds"), [(0, 3, [], [3, 4]), (5, 1, [6, 8], [7, 9])]
)
def test_finish_uses_seeds_that_the_search_has_not(place, own, replicates, listed, seeds):
    points = "".join(f'[[points]]\nkind = "lucky"\nseed = {seed}\n' for seed in listed)
    text = STUDY.replace("replicates = 3", f"replicates = {replicates}") + points
    place.here("create", place.study(text.replace("epochs = 1", f"epochs = 1\nseed = {own}")))
    place.here("worker", "small")
    with closed_engines():
        storage = studies.open_storage(f"sqlite:///{place.path}/storage/hpo.db", create=False)
        assert plan_finish(storage, "small", 1, 2).seeds == tuple(seeds)
