"""Report, final evaluation, simulation and cost of a study, from Python."""

import dataclasses
import json

import pytest
import torch

import hpo
from tests.support.api_study import NAME, STUDY, climb


@pytest.fixture
def ended(study):
    """Return the study after its four trials."""
    study.run(objective=climb, progress=False)
    return study


@pytest.fixture
def url(tmp_path):
    """Return a store on SQLite: what is tested here reads it through other packages."""
    from tests.support.databases import closed_engines

    with closed_engines():
        yield f"sqlite:///{tmp_path}/hpo.db"


def test_a_report_is_written_with_its_tables(ended, tmp_path):
    assert ended.report("page.html", csv=tmp_path / "tables") == tmp_path.joinpath("page.html").relative_to(
        tmp_path
    )
    assert f"{ended.best()[0].value:.4f}" in (tmp_path / "page.html").read_text()
    assert list((tmp_path / "tables").glob("*.csv"))


def test_the_best_settings_are_compared_over_seeds(ended, workplace, capsys):
    found = ended.finish(top=2, seeds=2, objective=climb, progress=False)
    assert [len(each.values) for each in found.runs] == [2, 2]
    assert found.winner.setting.params == ended.best()[0].params
    assert ended.finish(top=2, seeds=2) == found, "a complete evaluation is only read"
    assert len(repr(found)) < 400, "a notebook shows it"
    flags = "--store", ended.locations.store
    printed = workplace.here("best", f"{NAME}-finish", "--json", *flags).json()
    assert printed["seeds"] == 2
    with pytest.raises(hpo.HpoError):
        hpo.load(f"{NAME}-finish", ended.locations.store).finish()


def test_a_simulation_is_what_the_command_prints(study, workplace):
    ended = hpo.create(STUDY, overrides={"search.trials": 10}, store=study.locations.store)
    ended.run(objective=climb, progress=False)
    found = ended.simulate(workers=2, repeats=2)
    printed = workplace.here(
        "simulate", NAME, "--workers", "2", "--repeats", "2", "--json", "--store", ended.locations.store
    ).json()
    assert json.loads(json.dumps(dataclasses.asdict(found))) == printed
    assert found.strategies[0].strategy.startswith("random")
    with pytest.raises(hpo.HpoError, match=r"^want workers >= 1 and repeats >= 2, found 0 and 20"):
        ended.simulate(workers=0)
    with pytest.raises(hpo.HpoError, match="sampler"):
        ended.simulate("annealing")


def test_a_plan_prices_the_stored_study_and_leaves_torchs_threads(study):
    threads = torch.get_num_threads()
    found = study.plan("cpu")
    assert (found.study, sum(part.trials for part in found.parts)) == (NAME, 4)
    assert found.device_hours > 0
    assert torch.get_num_threads() == threads
    assert study.status().trials["waiting"] == 4
