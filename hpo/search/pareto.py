"""Points with several objectives: which are better, how well they cover a front, and what it is worth.

A point is a row of losses, one column for each objective; lower is better in every column. A point
*dominates* another one if it is nowhere worse and somewhere better. The points that none dominates are
front 0, the Pareto front. Those that only points of front 0 dominate are front 1, and so on.

Dominance does not order the points of one front. ``pareto_order`` puts first those that cover the front
best (an epsilon-net), as multi-objective ASHA does (Schmucker et al. 2021, "Multi-objective Asynchronous
Successive Halving", arXiv 2106.12639): it starts at one end of the front, and takes again and again the
point that is farthest from all it has taken. The same points always give the same order.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _fast_non_domination_rank

Losses: TypeAlias = npt.NDArray[np.float64]  # of points by objectives; infinite where a value is unknown


def front_numbers(losses_NK: Losses) -> npt.NDArray[np.int64]:
    """Return the number of each point's front, from 0.

    Args:
        losses_NK: N points with K losses each, without NaN.
    """
    found: npt.NDArray[np.int64] = np.asarray(_fast_non_domination_rank(losses_NK), dtype=np.int64)
    return found


def dominator_counts(losses_NK: Losses, own: int) -> int:
    """Return how many points dominate one of them.

    Args:
        losses_NK: N points with K losses each, without NaN.
        own: The index of the one.
    """
    nowhere_worse = (losses_NK <= losses_NK[own]).all(axis=1)
    somewhere_better = (losses_NK < losses_NK[own]).any(axis=1)
    return int((nowhere_worse & somewhere_better).sum())


def pareto_order(losses_NK: Losses) -> list[int]:
    """Return the indices of points from best to worst: front by front, within a front by ``spread_order``.

    Args:
        losses_NK: N points with K losses each, without NaN.
    """
    fronts = front_numbers(losses_NK)
    by_front = np.argsort(fronts, kind="stable")
    starts = np.flatnonzero(np.diff(fronts[by_front])) + 1
    members = np.split(by_front, starts)
    return [int(index[each]) for index in members for each in spread_order(losses_NK[index])]


def spread_order(losses_NK: Losses) -> list[int]:
    """Return the indices of a front's points so that the first ones cover it, however many are taken.

    The first is the best in the first objective. Each one that follows is the farthest from all before it,
    measured after each objective is scaled to the front's range. Of equal ones the earlier is first, and
    repeated points are last.

    Source: the greedy permutation of Clarkson 2006, "Nearest-Neighbor Searching and Metric Space
    Dimensions", section 4.

    Args:
        losses_NK: N points with K losses each, without NaN.
    """
    if not len(losses_NK):
        return []
    scaled_NK = scale_to_range(losses_NK)
    order = [int(np.argmin(losses_NK[:, 0]))]
    distances_N = np.full(len(losses_NK), np.inf)  # of each point from the nearest one in the order
    while len(order) < len(losses_NK):
        last = order[-1]
        distances_N = np.minimum(distances_N, np.linalg.norm(scaled_NK - scaled_NK[last], axis=1))
        distances_N[last] = -1.0  # behind all others, which are at least 0 away
        order.append(int(np.argmax(distances_N)))
    return order


def scale_to_range(losses_NK: Losses) -> Losses:
    """Return points with each objective scaled to [0, 1] over its finite values; infinity becomes 2.

    An objective in which all points are equal becomes 0.

    Args:
        losses_NK: N points with K losses each, without NaN; none is minus infinity.
    """
    known = np.isfinite(losses_NK)
    low_K = np.min(losses_NK, axis=0, where=known, initial=np.inf)
    high_K = np.max(losses_NK, axis=0, where=known, initial=-np.inf)
    width_K = np.where(high_K > low_K, high_K - low_K, 1.0)
    scaled: Losses = np.where(known, (losses_NK - np.where(known, low_K, 0.0)) / width_K, 2.0)
    return scaled


def hypervolume(losses_NK: Losses, reference_K: Losses) -> float:
    """Return the volume of what points dominate up to a reference point; more is better.

    Source: Zitzler and Thiele 1998, "Multiobjective Optimization Using Evolutionary Algorithms". Optuna
    computes it.

    Args:
        losses_NK: N points with K losses each, without NaN. One that is worse than the reference point in
            some objective adds nothing.
        reference_K: The reference point, finite.
    """
    inside = losses_NK[(losses_NK <= reference_K).all(axis=1)]
    return float(compute_hypervolume(inside, reference_K)) if len(inside) else 0.0


def knee(losses_NK: Losses) -> int:
    """Return the index of a front's knee: the point farthest beyond the line through the front's ends.

    The objectives are scaled to the front's range first. With more than two, a plane with equal intercepts
    takes the line's place. The distance from either grows as the sum of the scaled losses falls, so the
    knee is the point with the least sum; of equal ones the earlier. On a front that nowhere bulges towards
    lower losses it is one of the ends.

    Source: Das 1999, "On characterizing the 'knee' of the Pareto curve based on normal-boundary
    intersection", Structural Optimization 18, 107-115.

    Args:
        losses_NK: At least one point, with K losses each, without NaN.
    """
    return int(np.argmin(scale_to_range(losses_NK).sum(axis=1)))
