"""A study's forecast as text for the terminal: ``hpo plan``."""

from collections.abc import Iterator

from rich.table import Table

from hpo.analysis.cost import SAVINGS, Forecast
from hpo.analysis.formatting import format_seconds
from hpo.training import weights


def make_table(found: Forecast) -> Table:
    """Return the parts of a forecast as a table for the terminal.

    Its last column, the original report's seconds per epoch, is there only if one of the parts has them.
    """
    has_original = any(part.original_epoch_seconds for part in found.parts)
    columns = ["point", "setting", "trials", "epochs", "s/epoch", "GiB", "time"]
    table = Table(*columns, *(["s/epoch there"] if has_original else []), box=None, padding=(0, 1))
    for part in found.parts:
        fits = part.epoch_seconds is not None
        cells = [
            "" if part.point is None else str(part.point),
            ", ".join(f"{key} {value}" for key, value in part.setting.items()) or "searched",
            f"{part.trials:g}" if part.trials.is_integer() else f"{part.trials:.1f}",
            str(part.epochs),
            _format_number(part.epoch_seconds) if part.epoch_seconds else "-",
            f"{part.peak_gib:.1f}" if part.peak_gib else "does not fit",
            format_seconds(part.seconds) if fits else "-",
        ]
        table.add_row(*cells, *([f"{part.original_epoch_seconds or 0:g}"] if has_original else []))
    return table


def summary_lines(found: Forecast) -> Iterator[str]:
    """Yield the totals of a forecast as lines of text.

    Left out where they say nothing are the totals with pruning, why the totals are an upper bound, and the
    total of the original report. What follows the totals is the disk space
    and the search strategy.
    """
    total, pruned = found.device_hours, found.pruned_device_hours
    workers = f"{found.workers} worker{'s' * (found.workers > 1)} on {found.device}"
    wall = _format_hours(found.wall_hours(total))
    at_most = "at most " if found.at_most else ""
    yield f"in all {at_most}{_format_hours(total)} of one device, {wall} with {workers}"
    if found.at_most:
        yield f"at most, because {'; '.join(SAVINGS[name] for name in found.at_most)}"
    if found.pass_seconds:
        yield (
            f"the output of frozen layers takes {_format_hours(found.pass_seconds / 3600)} of one device "
            "for all trials together; after that only the last layers are trained"
        )
    if pruned < total:
        wall = _format_hours(found.wall_hours(pruned))
        yield f"with pruning at best {_format_hours(pruned)} of one device, {wall} with {workers}"
    if found.original_hours is not None:
        hours = _format_hours(found.original_hours)
        yield f"the original report spent {hours} of one device on these points"
    if found.left_out_trials:
        count, settings = found.left_out_trials, "the space has no setting left for them"
        yield f"not in these totals: {count} searched trial{'s' * (count > 1)}; {settings}"
    if misfits := [part for part in found.parts if part.epoch_seconds is None]:
        yield f"not in these totals: {len(misfits)} rows that do not fit into the memory"
    if found.disk is not None:
        yield from found.disk.lines()
    if found.strategy is not None:
        yield found.strategy
    if found.missing_files:
        yield f"weights that trials will download, {weights.describe_missing(found.missing_files)}"


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _format_hours(hours: float) -> str:
    if hours < 2 / 60:
        return f"{hours * 3600:.0f} seconds"
    return f"{hours * 60:.0f} minutes" if hours < 2 else f"{hours:,.1f} hours"
