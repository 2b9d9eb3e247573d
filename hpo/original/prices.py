"""The time that the original report spent on a setting. ``hpo plan`` shows it beside its own forecast."""

from collections.abc import Mapping
from typing import Any

from hpo.analysis.cost import KnownCost
from hpo.original.facts import POINTS, ReportPoint


def known_cost(setting: Mapping[str, Any]) -> KnownCost | None:
    """Return what the report spent on a setting, with its own epochs; None if it has no such point.

    Args:
        setting: A point's setting with its ``site``, as in the study file.
    """
    point = point_with(setting)
    return None if point is None else KnownCost(epoch_seconds=epoch_seconds(point), epochs=point.epochs)


def point_with(setting: Mapping[str, Any]) -> ReportPoint | None:
    """Return the point with this setting and site, whatever its epochs; None if the report has none.

    Where the report gives two learning rates, either matches.
    """
    keys = ("model", "optimizer", "lr", "momentum", "batch_size", "site")
    wanted = tuple(setting.get(key) for key in keys)
    for point in POINTS.values():
        for lr in (point.lr, point.also_lr):
            printed = (point.model, point.optimizer, lr, point.momentum, point.batch_size, point.site)
            if printed == wanted:
                return point
    return None


def epoch_seconds(point: ReportPoint) -> float:
    """Return a point's seconds per epoch; where the report prints none, those of point 8.

    According to the report, learning rate and momentum do not change the time of an epoch.
    """
    return float(point.epoch_seconds or POINTS[8].epoch_seconds or 0.0)
