"""What ``hpo finish`` says about settings that are equal, or no better than the largest class."""

from dataclasses import replace

from hpo.analysis import finish_text, intervals
from hpo.analysis.finish import ChosenSetting, FinishPlan
from hpo.analysis.finish_result import FinishResult, SettingRuns
from hpo.training.metric import METRICS


def result(*accuracies: tuple[float, ...]) -> FinishResult:
    """Return the result of settings with these accuracies by seed, on 20 images, 18 of one class."""
    runs = tuple(
        SettingRuns(
            setting=ChosenSetting(trial=trial, best_run=trial, value=0.9, params={}, options={"epochs": 1}),
            values=dict(enumerate(values)),
            trials={},
            objectives=(),
            interval=None,
        )
        for trial, values in enumerate(accuracies)
    )
    pairs = list(zip(accuracies[0], accuracies[-1], strict=True))
    seeds = tuple(range(len(accuracies[0])))
    return FinishResult(
        plan=FinishPlan(
            study="s", name="s-finish", settings=tuple(each.setting for each in runs), seeds=seeds, notes=()
        ),
        metric=METRICS["accuracy"],
        goals=(METRICS["accuracy"],),
        measure="test accuracy",
        is_test=True,
        runs=runs,
        difference=intervals.paired_difference(pairs, 1 / 20, intervals.FRACTION),
        missing=(),
        images=20,
        baseline=0.9,
    )


def test_settings_that_are_no_better_than_the_largest_class_are_named():
    lines = list(finish_text.summary_lines(result((0.95, 0.95), (0.9, 0.9), (0.9, 0.85))))
    gives = "0.9000, which always answering with the largest class gives"
    assert f"Not above {gives}: trial 1's setting, trial 2's setting." in lines
    assert any("scored on the 20 test images once" in line for line in lines)
    assert not any(
        "Not above" in line for line in finish_text.summary_lines(result((1.0,) * 2, (0.95,) * 2))
    )


def test_a_winner_that_may_beat_the_largest_class_by_luck_alone_is_doubted():
    doubt = "not clearly above 0.9000, which always answering with the largest class gives"
    lucky = result((0.95, 0.95), (0.9, 0.9))
    assert f"{doubt.capitalize()}: trial 0's setting." in finish_text.summary_lines(lucky)
    assert finish_text.winner_text(lucky).endswith(f"; it is {doubt}")
    clear = replace(lucky, images=2000)
    assert not any("clearly" in line for line in finish_text.summary_lines(clear))
    assert "clearly" not in finish_text.winner_text(clear)


def test_an_unfinished_evaluation_says_how_many_runs_are_missing():
    found = replace(result((0.95, 0.95), (0.9, 0.9)), missing=("trial 1's setting lacks seed 1: ...",))
    assert "the mean of 2 seeds; 1 of 4 runs is not complete" in finish_text.winner_text(found)


def test_what_the_evaluation_adds_to_a_setting_is_told():
    found = result((0.95, 1.0), (0.9, 0.8))
    lead = "In the search its setting ran with one seed only;"
    told = "in the final evaluation, over 2 seeds its mean is 0.8500 (test accuracy)."
    assert finish_text.seeds_sentence(found, 1) == f"{lead} {told}"
    assert finish_text.seeds_sentence(found, 7).endswith(
        "it is not among the settings of the final evaluation."
    )
    (run, _) = found.runs
    waiting = replace(found, runs=(replace(run, values={}),))
    assert finish_text.seeds_sentence(waiting, 0).endswith("in the final evaluation is complete.")


def test_a_mean_whose_seeds_vary_around_the_baseline_is_doubted_on_any_number_of_images():
    certain = replace(result((0.98, 0.9, 0.95)), images=100_000)
    assert "clearly" not in finish_text.winner_text(certain)
    (runs,) = certain.runs
    spread = intervals.seeds_interval((0.98, 0.9, 0.95), 0.0, intervals.FRACTION)
    varied = replace(certain, runs=(replace(runs, interval=spread),))
    assert "it is not clearly above 0.9000" in finish_text.winner_text(varied)


def test_two_settings_with_the_same_mean_are_called_so():
    order = (
        "The order of trial 0's setting and trial 1's setting is not decided: both have the same mean, and"
    )
    assert finish_text.conclusion(result((0.9, 0.9), (0.9, 0.9))) == (
        f"{order} two seeds cannot tell; raise --seeds."
    )
    three = finish_text.conclusion(result((0.9,) * 3, (0.9,) * 3))
    assert three.startswith(f"{order} the interval contains 0 (")


def test_the_document_has_the_images_and_the_baseline():
    document = finish_text.document(result((0.95, 0.95), (0.9, 0.9)))
    assert (document["images"], document["baseline"]) == (20, 0.9)
