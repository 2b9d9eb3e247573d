"""Options of points in a grid study of a custom objective: misspelt ones are refused."""

import pytest

from tests.support import two_trials

OWN = two_trials.OWN
GRID = """
[train]
objective = "own:climb"
epochs = 1
seconds = 0.0
[search]
sampler = "grid"
[[points]]
speed = 1.0
[[points]]
speed = 2.0
[[points]]
"""


@pytest.mark.parametrize(("point", "near"), [("sped = 3.0", "speed"), ("speed = 3.0\nepoch = 2", "epochs")])
def test_a_misspelt_option_of_a_point_is_refused_in_a_grid_study(place, point, near):
    option = point.splitlines()[-1].partition(" ")[0]
    err = place.here("create", place.study(GRID + point), code=1).err
    assert f"points[3].{option}: neither [train] nor another point gives it; did you mean '{near}'?" in err
    assert err.count("\n") == 1
    place.here("create", place.study((GRID + point).replace("seconds", f"{option} = 0.0\nseconds")))


@pytest.mark.parametrize(
    "points",
    [
        ("speed = 3.0\nspeeds = 2", ""),  # beside the one that it resembles
        ("momentum = 0.9", "speed2 = 1"),  # of one point alone, and like no other, but for its digit
        ("seeds = 1", ""),  # like a short one
        ("sped = 1.0", "sped = 2.0"),  # of two points
    ],
)
def test_points_of_a_grid_study_may_have_options_of_their_own(place, points):
    place.here("create", place.study(GRID + "\n[[points]]\n".join(filter(None, points))))
