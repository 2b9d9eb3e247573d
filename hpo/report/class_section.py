"""The section on how the best trial's model answers, class by class."""

from typing import Any

import plotly.graph_objects as go

from hpo.analysis import class_tables, sections
from hpo.analysis.sections import Listing, Plot, Section
from hpo.training.confusion import Confusion
from hpo.training.data_facts import SPLIT_WORDS

MAX_MATRIX_CLASSES = 30  # of a confusion matrix that the page shows
MAX_ROWS = 20  # of classes and of confused pairs that the page lists where there are more classes
CELL_PIXELS = 28  # the height of a cell
MIN_CELL_PIXELS = 22  # on narrow screens
NAMES_PIXELS = 150  # beside the matrix
# Even one image of many in a wrong cell has a colour that stands out from that of an empty cell.
CELL_COLORS = [[0.0, "#f4f7f9"], [0.001, "#cfdff0"], [0.5, "#5d93c8"], [1.0, "#0b2f5c"]]


def class_section(trial: int, confusion: Confusion | str) -> Section:
    """Return the section on the confusion matrix and the classes of the best trial.

    Args:
        trial: The number of the trial.
        confusion: Of the evaluation that chose its weights; or why it is not known, as a sentence.
    """
    name, title = "classes", "Best trial, by class"
    if isinstance(confusion, str):
        return Section(name=name, title=title, text=(confusion,))
    images = sum(count for _, _, count in confusion.cells)
    text = (
        f"Trial {trial} on the {images} images of the {SPLIT_WORDS[confusion.split]} split, in the "
        f"evaluation that chose its weights. {class_tables.FIGURES_TEXT}"
    )
    is_small = len(confusion.classes) <= MAX_MATRIX_CLASSES
    first = _matrix_plot(confusion) if is_small else _pair_listing(confusion)
    return Section(name=name, title=title, text=(text,), parts=(first, _class_listing(confusion)))


def _matrix_plot(confusion: Confusion) -> Plot:
    matrix_KK = confusion.matrix()
    shares_KK = matrix_KK / matrix_KK.sum(1, keepdims=True).clip(min=1)
    names = [sections.figure_text(name) for name in confusion.classes]
    ticks = {"tickvals": list(range(len(names))), "ticktext": names, "constrain": "domain"}
    heatmap = go.Heatmap(
        z=shares_KK.tolist(),
        text=[[str(count) if count else "" for count in row] for row in matrix_KK.tolist()],
        texttemplate="%{text}",
        hovertemplate="class %{y}<br>answer %{x}<br>%{text} images, %{z:.1%} of the class<extra></extra>",
        colorscale=CELL_COLORS,
        zmin=0,
        zmax=1,
        showscale=False,
        xgap=1,
        ygap=1,
    )
    across: dict[str, Any] = {"title": {"text": "answer"}, "constraintoward": "left", "showgrid": False}
    down: dict[str, Any] = {"title": {"text": "class"}, "constraintoward": "top", "showgrid": False}
    down |= {"autorange": "reversed", "scaleanchor": "x"}
    height = 170 + CELL_PIXELS * max(len(names), 4)
    figure = sections.make_figure([heatmap], x=ticks | across, y=ticks | down, height=height)
    return Plot(
        name="confusion",
        title="Confusion matrix",
        figure=figure,
        table=class_tables.matrix_table(confusion),
        min_width=NAMES_PIXELS + MIN_CELL_PIXELS * len(names),
        caption="A row is a class, a column an answer. A darker cell is a larger part of its class.",
    )


def _class_listing(confusion: Confusion) -> Listing:
    table = class_tables.class_table(confusion)
    if len(table.rows) <= MAX_MATRIX_CLASSES:
        return Listing(name="classes", title="Each class", table=table)
    return Listing(
        name="classes",
        title=f"The {MAX_ROWS} classes with the lowest F1",
        table=table,
        caption=f"classes.csv has all {len(table.rows)} classes.",
        shown=class_tables.lowest_f1(table, MAX_ROWS),
    )


def _pair_listing(confusion: Confusion) -> Listing:
    table = class_tables.pair_table(confusion)
    return Listing(
        name="confusion",
        title="Classes that are most often confused",
        table=table,
        caption=f"confusion.csv has all {len(table.rows)} pairs.",
        shown=class_tables.pair_table(confusion, MAX_ROWS),
    )
