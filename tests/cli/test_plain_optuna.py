"""Studies and trials that plain Optuna wrote, in any shape: a verb answers or says in one line why not."""

import contextlib
import functools
import json
import math
import sqlite3
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.store import studies
from tests.support.databases import closed_engines
from tests.support.log_lines import without_context
from tests.support.workplace import Workplace, workplace_in

HUGE = 1.797e308
NAMES = (
    "fünf ∞ 漢字",
    "a/b\\c/../d",
    "x" * 200,
    "--yes",
    "[red]bold[/red] 'quoted\" $HOME",
    "tab\tline\nbreak",
)
VERBS: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("status", "--json"),
    ("trials",),
    ("trials", "--csv"),
    ("trials", "--json"),
    ("trials", "--trial", "0"),
    ("best",),
    ("best", "-n", "3", "--json"),
    ("importance",),
    ("importance", "--evaluator", "fanova", "--json"),
    ("importance", "--evaluator", "mdi"),
    ("report", "-o", "page.html", "--csv", "tables"),
    ("simulate", "--repeats", "2"),
    ("export", "--to", "model"),
    ("finish", "--top", "1", "--seeds", "1"),
    ("plan",),
    ("retry", "--failed"),
    ("retry", "--trial", "0"),
    ("pause",),
    ("resume",),
    ("stop",),
    ("resume",),
    ("enqueue", "x=0.5"),
    ("worker",),
    ("launch", "--devices", "cpu:1"),
    ("delete", "--yes"),
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:The distribution is specified by", "ignore:Choices for a cat"
)
OWN = """
def bowl(config, state):
    yield -((config.x - 0.3) ** 2), None
"""
STUDY = """
[train]
objective = "own:bowl"
epochs = 1
[space]
x = { low = 0.0, high = 1.0 }
y = ["a", "b"]
[search]
trials = 1
sampler = "random"
pruner = "none"
"""
ODD_CHOICES = (None, True, 1, 2.5, "1", "a", "é" * 100)
X = {"x": FloatDistribution(0, 1)}


@functools.cache
def odd_trials() -> dict[str, list[FrozenTrial]]:
    """Return trials of one objective in odd shapes, by a name for the shape."""

    def trials(*values: float | None, **more: Any) -> list[FrozenTrial]:
        return [
            create_trial(
                value=value,
                params={"x": (number % 10) / 10},
                distributions=X,
                state=TrialState.COMPLETE if value is not None else TrialState.FAIL,
                **more,
            )
            for number, value in enumerate(values)
        ]

    odd = {"c": CategoricalDistribution(ODD_CHOICES), "n": IntDistribution(0, 2**62, step=3)}
    rising = [number / 20 for number in range(12)]
    nested = CategoricalDistribution([[1, [2]], {"k": 1}])  # type: ignore[list-item]
    return {
        "none": [],
        "one": trials(0.5),
        "equal": trials(*[0.5] * 12),
        "rising": trials(*rising),
        "huge": trials(-HUGE, HUGE, 1e308, *rising),
        "infinite": trials(math.inf, -math.inf, *rising),
        "failed": trials(None, None),
        "reports": [
            *trials(*rising, intermediate_values={1: math.nan, 2: math.inf, 3: 0.5, 10**9: -HUGE, 0: 0.1}),
            create_trial(
                state=TrialState.PRUNED, value=0.1, intermediate_values={1: math.inf, 2: math.nan}
            ),
            create_trial(state=TrialState.PRUNED),
            create_trial(state=TrialState.FAIL, intermediate_values={5: -math.inf}),
        ],
        "parameters": [
            create_trial(
                value=value,
                params={"c": ODD_CHOICES[number % 7], "n": 3 * number * 10**15},
                distributions=odd,
            )
            for number, value in enumerate(rising)
        ],
        "nested": [
            create_trial(value=value, params={"d": nested.choices[number % 2]}, distributions={"d": nested})
            for number, value in enumerate(rising)
        ],
        "no parameters": [create_trial(value=value) for value in rising],
        "changing parameters": [
            create_trial(
                value=value,
                params={f"p{number}": 0.5},
                distributions={f"p{number}": FloatDistribution(0, 1)},
            )
            for number, value in enumerate(rising)
        ],
        "names": [
            create_trial(
                value=value, params={name: number / 20}, distributions={name: FloatDistribution(0, 1)}
            )
            for name in (*NAMES, "")
            for number, value in enumerate(rising)
        ],
        "attributes": trials(
            *rising,
            user_attrs={"weights": "q", "epochs": "q", "hardware": 1, "point": {}, "épée": [None], "": ""},
            system_attrs={"constraints": (1.0, -1.0), "fixed_params": {"z": 1}, "grid_id": "q"},
        ),
        "running": [
            *trials(*rising),
            create_trial(state=TrialState.RUNNING, params={"x": 0.5}, distributions=X),
            create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": 0.5, "odd": None}}),
        ],
    }


def make_plain_studies(url: str) -> None:
    """Make studies with plain Optuna alone, and trials of it in studies of hpo."""
    create = optuna.create_study
    for shape, trials in odd_trials().items():
        create(study_name=f"maximize {shape}", storage=url, direction="maximize").add_trials(trials)
    rising = odd_trials()["rising"]
    create(study_name="minimize rising", storage=url, direction="minimize").add_trials(rising)
    several = create(study_name="several", storage=url, directions=["maximize", "minimize"])
    several.add_trials(
        [create_trial(values=[n / 9, -n], params={"x": n / 9}, distributions=X) for n in range(9)]
    )
    several.enqueue_trial({"x": 0.1})
    several.ask()
    for name in NAMES:
        create(study_name=name, storage=url, direction="maximize").add_trials(rising)


def make_own_studies(place: Workplace, url: str) -> None:
    """Make studies of hpo to which plain Optuna has added trials."""
    place.study(STUDY)
    (place.path / "own.py").write_text(OWN)
    for shape, trials in odd_trials().items():
        place.here("create", "small.toml", "--name", f"own {shape}")
        optuna.load_study(study_name=f"own {shape}", storage=url).add_trials(trials)


def fill(path: Path) -> None:
    place, url = workplace_in(path), f"sqlite:///{path}/storage/hpo.db"
    with closed_engines():
        (path / "storage").mkdir()
        studies.open_storage(url, create=True)
        make_plain_studies(url)
        make_own_studies(place, url)


@pytest.fixture(scope="module")
def filled(once) -> Workplace:
    return workplace_in(once("plain-optuna", fill))


def rows(place: Workplace, name: str) -> Iterator[Any]:
    """Yield the rows of a study's trials."""
    with contextlib.closing(sqlite3.connect(place.path / "storage/hpo.db")) as database:
        yield from database.execute(
            "SELECT t.* FROM trials t JOIN studies s USING (study_id) WHERE s.study_name = ?", (name,)
        )


def parse_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def check(place: Workplace, verb: tuple[str, ...], name: str) -> int:
    done = place.here(verb[0], *verb[1:], "--", name, code=None)
    said = (verb, name, done.out, done.err)
    assert done.code in (0, 1, 2, 78), said
    assert "Traceback" not in done.out + done.err, said
    if done.code in (1, 78):
        # One line, and before it at most those on failed trials.
        lines = without_context(done.err)
        assert len([line for line in lines if "failed" not in line and "hpo retry" not in line]) <= 1, said
        assert all(line.startswith("hpo: ") for line in lines), said
        assert lines, said
    if done.code == 0 and "--json" in verb:
        parse_json(done.out)
    return done.code


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Optuna warns that it does not support some of these choices
    SHAPES = list(odd_trials())
QUICKEST = ("failed", "none", "reports")
PLAIN = [f"maximize {shape}" for shape in SHAPES] + ["minimize rising"]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_study_of_plain_optuna_is_read_or_refused_in_one_line_and_never_changed(filled, verb):
    refused = {}
    for name in (*PLAIN, "several", *NAMES):
        before = list(rows(filled, name))
        refused[name] = check(filled, verb, name)
        assert list(rows(filled, name)) == before, (verb, name)
    if verb[0] == "importance":
        assert refused["maximize rising"] == refused["minimize rising"] == 0
    else:
        assert 0 not in refused.values(), f"{verb[0]} takes it for a study of hpo: {refused}"


@pytest.mark.parametrize(
    "shape",
    [shape if shape in QUICKEST else pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES],
)
def test_trials_that_plain_optuna_added_to_a_study_of_hpo_are_read_by_every_verb(filled, shape):
    for verb in VERBS:
        if verb[0] not in ("launch", "finish", "plan", "delete"):
            check(filled, verb, f"own {shape}")
    check(filled, ("studies",), "x")
