"""The report of a custom objective says nothing about images that hpo does not know of."""

import re

OWN = """
def climb(config, state):
    yield config.lr, None
"""

STUDY = """
[train]
objective = "own:climb"
epochs = 1
[search]
sampler = "grid"
[[points]]
lr = 0.1
[[points]]
lr = 0.2
"""


def test_the_summary_of_a_custom_objective_names_no_images(place):
    place.here("create", place.study(STUDY))
    place.here("worker", "small")
    place.here("report", "small", "-o", "report.html")
    page = (place.path / "report.html").read_text()
    summary = re.sub(
        r"<[^>]+>", " ", page[page.index('<section id="summary">') : page.index('id="history"')]
    )
    assert "A custom objective does not say how many images accuracy was measured on" in summary
    assert "chosen on the data it was measured on: expect less on new data." in summary
    assert "hpo finish small --top 3 --seeds 5" in summary
    assert "hpo export" not in summary
    assert "hpo predict" not in summary
    assert "2 trials cannot tell what one parameter does" in summary
