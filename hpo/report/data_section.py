"""The section on a study's images: how many each class has, and some of them as the model sees them."""

import itertools
from collections.abc import Iterator

import plotly.graph_objects as go

from hpo.analysis import class_tables, sections
from hpo.analysis.sections import Listing, PictureRow, Pictures, Plot, Section
from hpo.errors import quote_value
from hpo.search import baseline
from hpo.study.definition import Definition
from hpo.training.config import Config
from hpo.training.data_facts import SPLIT_WORDS, DataFacts, describe_share

MAX_FIGURE_CLASSES = 30  # that a figure shows one by one
MAX_EXTREME_CLASSES = 10  # the largest and the smallest ones that the page lists of more than these


def data_section(facts: DataFacts | str, definition: Definition) -> Section:
    """Return the section on a study's images.

    Args:
        facts: What is known of them; or why nothing is, as a sentence.
        definition: The study.
    """
    name, title = "data", "Data"
    if isinstance(facts, str):
        return Section(name=name, title=title, text=(facts,))
    part = _counts_plot(facts) if len(facts.classes) <= MAX_FIGURE_CLASSES else _counts_listing(facts)
    text = (_summary(facts), *_limits(facts, definition))
    return Section(name=name, title=title, text=text, parts=(part, _samples(facts)))


def _limits(facts: DataFacts, definition: Definition) -> Iterator[str]:
    """Yield a sentence if these images keep the rule against guessing from applying to trials."""
    settings = definition.trial_config({})
    if isinstance(settings, Config):
        guessing = baseline.guess(settings, facts.images[facts.selection])
        if limits := baseline.describe_limits(guessing, settings, definition.search):
            yield f"{limits[0].upper()}{limits[1:]}."


def _summary(facts: DataFacts) -> str:
    by_split = {name: sum(counts) for name, counts in facts.images.items()}
    shown = ", ".join(f"{count} {SPLIT_WORDS[name]}" for name, count in by_split.items())
    selected = facts.images[facts.selection]
    largest = max(range(len(selected)), key=lambda label: selected[label])
    guess = (
        f" Always answering {quote_value(facts.classes[largest])} gives accuracy "
        f"{selected[largest] / sum(selected):.4f} on the {SPLIT_WORDS[facts.selection]} split."
    )
    files = "1 unreadable file was" if facts.skipped == 1 else f"{facts.skipped} unreadable files were"
    left_out = f" {files} left out." if facts.skipped else ""
    used = describe_share(sum(by_split.values()), facts.available)
    return f"{used} in {len(facts.classes)} classes: {shown}.{guess}{left_out}"


def _counts_plot(facts: DataFacts) -> Plot:
    positions = list(range(len(facts.classes)))
    traces = [
        go.Bar(y=positions, x=counts, name=SPLIT_WORDS[name], orientation="h", marker={"color": color})
        for (name, counts), color in zip(facts.images.items(), sections.COLORS, strict=False)
    ]
    names = [sections.figure_text(name) for name in facts.classes]
    axis = {"tickvals": positions, "ticktext": names, "autorange": "reversed"}
    figure = sections.make_figure(traces, x="images", y=axis, height=130 + 22 * len(names))
    figure.update_layout(barmode="stack", legend={"traceorder": "normal"})
    return Plot(
        name="data-classes",
        title="Images of each class, by split",
        figure=figure,
        table=class_tables.count_table(facts),
    )


def _counts_listing(facts: DataFacts) -> Listing:
    table = class_tables.count_table(facts)
    return Listing(
        name="data-classes",
        title=f"The {MAX_EXTREME_CLASSES} largest and the {MAX_EXTREME_CLASSES} smallest classes",
        table=table,
        caption=f"data-classes.csv has all {len(table.rows)} classes.",
        shown=class_tables.largest_and_smallest(table, MAX_EXTREME_CLASSES),
    )


def _samples(facts: DataFacts) -> Pictures:
    by_class = itertools.groupby(facts.samples, key=lambda each: each.label)
    rows = tuple(
        PictureRow(label=facts.classes[label], pngs=tuple(each.png for each in own))
        for label, own in by_class
    )
    some = f" of {len(rows)} of the {len(facts.classes)} classes" if len(rows) < len(facts.classes) else ""
    return Pictures(
        name="data-samples",
        title=f"Training images{some}, as the model sees them",
        rows=rows,
        caption=facts.describe_samples(),
    )
