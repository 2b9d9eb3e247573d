"""Tables on the classes of a study's images and on how a model answers them, for the report and the card.

A table has all classes. Of many classes, a reader needs those at the ends: ``largest_and_smallest`` and
``lowest_f1`` choose them.
"""

from hpo.analysis import by_class
from hpo.analysis.sections import Table, make_table
from hpo.training.confusion import Confusion
from hpo.training.data_facts import SPLIT_WORDS, DataFacts

FRACTIONS = ("precision", "recall", "F1", "part of the class")  # the columns of fractions
FIGURES_TEXT = (
    "Precision is the part of a class's answers that are right, recall the part of its images that are "
    "found, F1 their harmonic mean, and n its images."
)


def count_table(facts: DataFacts) -> Table:
    """Return the number of images of each class by split, and of all splits in the last column."""
    counts = zip(*facts.images.values(), strict=True)
    rows = [(name, *own, sum(own)) for name, own in zip(facts.classes, counts, strict=True)]
    return make_table(("class", *(SPLIT_WORDS[name] for name in facts.images), "all"), rows)


def largest_and_smallest(counts: Table, each: int) -> Table:
    """Return ``each`` of the largest and the smallest classes of a ``count_table``, the largest first."""
    by_size = sorted(counts.rows, key=lambda row: -row[-1])
    return make_table(counts.columns, [*by_size[:each], *by_size[-each:]])


def class_table(confusion: Confusion) -> Table:
    """Return the number of images, precision, recall and F1 of each class."""
    results = by_class.class_results(confusion)
    rows = [(each.name, each.images, each.precision, each.recall, each.f1) for each in results]
    return make_table(("class", "n", "precision", "recall", "F1"), rows)


def lowest_f1(classes: Table, count: int) -> Table:
    """Return the ``count`` classes of a ``class_table`` with the lowest F1, from the lowest on."""
    return make_table(classes.columns, sorted(classes.rows, key=lambda row: row[-1])[:count])


def matrix_table(confusion: Confusion) -> Table:
    """Return the number of images by class, one per row, and answer, one per column."""
    rows = zip(confusion.classes, confusion.matrix().tolist(), strict=True)
    return make_table(("class", *confusion.classes), [(name, *row) for name, row in rows])


def pair_table(confusion: Confusion, count: int | None = None) -> Table:
    """Return the pairs of a class and a wrong answer, the most frequent first.

    Args:
        confusion: The matrix.
        count: How many pairs; None: all.
    """
    pairs = by_class.confused_pairs(confusion)[:count]
    rows = [(each.name, each.answer, each.images, each.share) for each in pairs]
    return make_table(("class", "answer", "images", "part of the class"), rows)
