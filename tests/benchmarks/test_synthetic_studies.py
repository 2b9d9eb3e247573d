"""Synthetic studies: what their prior promises, and the figures made of searches in them."""

import statistics

import numpy as np
import pytest
from scipy import stats

from benchmarks import many_studies
from benchmarks.synthetic_studies import STUDIES, SyntheticStudy
from hpo.search.encoding import SpaceEncoder
from hpo.study.space import is_active

MODEL = "hpo: freeze_thaw, freeze_thaw from epoch 1"


@pytest.fixture(scope="module")
def studies():
    return [SyntheticStudy(seed) for seed in range(STUDIES)]


def random_settings(study, count):
    encoder = SpaceEncoder(tuple(study.parameters), {})
    rows = encoder.random_rows(count, np.random.default_rng(0))
    return [encoder.decode(row) for row in rows.tolist()]


def test_a_seed_decides_a_study(studies):
    again, other = SyntheticStudy(7), SyntheticStudy(9)
    settings = random_settings(studies[7], 5)
    assert again.parameters == studies[7].parameters
    assert [again.predict_curve(each) for each in settings] == [
        studies[7].predict_curve(each) for each in settings
    ]
    assert other.parameters != again.parameters


def test_every_curve_is_a_share_of_images_after_each_epoch(studies):
    for study in studies:
        for setting in random_settings(study, 10):
            curve = study.predict_curve(setting)
            assert len(curve.values) == study.epochs
            assert all(0 <= value <= 1 for value in curve.values)
            assert curve.total_seconds > 0


def test_the_shares_of_the_prior_are_those_it_states(studies):
    with_schedule = sum(study.has_schedule for study in studies) / STUDIES
    conditional = [any(each.condition() for each in study.parameters) for study in studies]
    assert with_schedule == pytest.approx(0.6, abs=0.15)
    assert sum(conditional) / STUDIES == pytest.approx(2 / 3, abs=0.15)


def test_a_parameter_is_there_where_its_condition_holds(studies):
    for study in studies[:10]:
        for setting in random_settings(study, 10):
            assert set(setting) == {each.name for each in study.parameters if is_active(each, setting)}


def test_curves_of_schedules_cross(studies):
    """A constant rate is ahead early, and behind in the end."""
    early, late = [], []
    for study in (each for each in studies if each.has_schedule):
        for setting in random_settings(study, 10):
            constant, cosine = (
                np.array(study.predict_curve({**setting, "schedule": name}).values)
                for name in ("constant", "cosine")
            )
            early.append((constant - cosine)[: study.epochs // 3].mean())
            late.append((constant - cosine)[-3:].mean())
    assert statistics.fmean(early) > 0 > statistics.fmean(late)


def test_the_highest_learning_rates_diverge_in_some_studies(studies):
    lost = 0
    for study in studies:
        rates = next(each for each in study.parameters if each.name == "lr").choices_or_bounds()
        settings = [{**setting, "lr": rates[1]} for setting in random_settings(study, 5)]
        ends = [study.predict_curve(setting).values[-1] for setting in settings]
        lost += all(abs(end - study.guess) < 0.1 * (study.top - study.guess) for end in ends)
    assert STUDIES / 10 < lost < STUDIES


def test_in_an_alike_study_about_the_same_settings_do_well(studies):
    likeness = {"alike": [], "unrelated": []}
    for study in studies[:20]:
        settings = random_settings(study, 60)
        ends = [max(study.predict_curve(each).values) for each in settings]
        for other, found in likeness.items():
            there = SyntheticStudy(study.seed, other)
            assert there.parameters == study.parameters
            found.append(
                stats.spearmanr(ends, [max(there.predict_curve(each).values) for each in settings])[0]
            )
    assert statistics.fmean(likeness["alike"]) > 0.6
    assert abs(statistics.fmean(likeness["unrelated"])) < 0.3


def test_a_strategy_can_start_from_another_study():
    cold = many_studies.search("synthetic-4", MODEL, 1, 0, 3)
    name = f"{MODEL}{many_studies.AFTER}alike"
    warm = many_studies.search("synthetic-4", name, 1, 0, 3)
    assert warm["strategy"] == name
    assert warm["regrets"] != cold["regrets"]


def search(study, seed, trainings, all_trainings=40.0):
    return {
        "study": study,
        "strategy": "any",
        "workers": 1,
        "seed": seed,
        "trainings": trainings,
        "all_trainings": all_trainings,
    }


def test_a_search_that_misses_the_target_counts_with_its_budget():
    found = [search("a", 0, 4.0), search("a", 1, None), search("b", 0, 10.0)]
    assert many_studies.mean_by_study(found, "trainings") == {"a": 22.0, "b": 10.0}


def test_the_halves_have_no_study_in_common():
    chosen, reported = (set(many_studies.study_names(half, 100)) for half in ("chosen", "reported"))
    assert not chosen & reported
    assert len(chosen) + len(reported) == STUDIES + 3


def test_a_ratio_lies_within_its_interval_and_is_sure_where_all_studies_agree():
    ours, others = [1.0, 2.0, 3.0, 4.0], [2.0, 4.0, 6.0, 8.0]
    assert many_studies.ratio_interval(ours, others) == pytest.approx((0.5, 0.5, 0.5))
    mixed = [2.0, 2.0, 6.0, 1.0]
    ratio, low, high = many_studies.ratio_interval(mixed, others)
    assert low < ratio < high
    assert ratio == pytest.approx(sum(mixed) / sum(others))
