"""``Study.run``: in this process, by worker processes, and what is refused."""

import functools
import signal
import sys
import threading

import pytest

import hpo
from tests.support.api_study import NAME, STUDY, climb
from tests.support.databases import closed_engines


def test_a_function_runs_in_this_process_with_lease_records_and_checkpoints(study, tmp_path, capsys):
    study.run(objective=climb)
    err = capsys.readouterr().err
    assert "trial 0 epoch 3/3: accuracy" in err
    assert study.status().trials["complete"] == 4
    first = study.trials()[0]
    assert list(first.intermediate_values) == [1, 2, 3]
    assert {"attempts", "epoch_seconds", "hardware", "weights"} <= set(first.user_attrs)
    assert len(list((tmp_path / "artifacts").glob("small-*/*/epochs.csv"))) == 4


def test_without_progress_nothing_is_printed_but_failures(study, capsys):
    study.enqueue(speed=0.2, kind="a")

    def climb(config, state):
        if config.trial == 4:
            raise RuntimeError("no luck")
        yield 0.5, None

    study.run(objective=climb, progress=False)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "trial 4 failed (RuntimeError: no luck)"
    assert all("epoch" not in line for line in lines)


def test_a_pruner_stops_trials_of_this_process(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = {"search.pruner": {"name": "asha", "min_epochs": 1, "reduction_factor": 2}}
    study = hpo.create(STUDY, overrides=overrides, store=url)
    study.run(objective=climb, progress=False)
    states = [trial.state for trial in study.trials()]
    assert states.count("pruned") >= 1
    assert states.count("complete") >= 1


def test_an_interrupt_lets_the_epoch_end_and_the_same_call_continues(study, capsys):
    handler = signal.getsignal(signal.SIGINT)
    started = []

    def climb(config, state):
        started.append(state and state["epoch"])
        if len(started) == 1:
            signal.raise_signal(signal.SIGINT)
        for epoch in range(state["epoch"] + 1 if state else 1, config.epochs + 1):
            yield epoch / 10, {"epoch": epoch}

    with pytest.raises(KeyboardInterrupt):
        study.run(objective=climb)
    assert "stopped with 0 of 4 trials done; call run() again to continue" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is handler
    assert [trial.state for trial in study.trials()] == ["waiting"] * 4
    assert list(study.trials()[0].intermediate_values) == [1]
    study.run(objective=climb, progress=False)
    assert started == [None, 1, None, None, None]
    assert study.status().trials["complete"] == 4


def test_a_function_that_was_edited_between_two_runs_is_told(study, capsys):
    def interrupted_climb(config, state):
        if config.trial == 1:
            signal.raise_signal(signal.SIGINT)
        yield 0.5, {}

    interrupted_climb.__name__ = "climb"
    with pytest.raises(KeyboardInterrupt):
        study.run(objective=interrupted_climb)
    assert "edited" not in capsys.readouterr().err

    study.run(objective=climb, progress=False)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"hpo: study '{NAME}': 'climb' has been edited since trials 0, 1 ran; 1 of them will continue from "
        "its states; for values that can be compared, create the study under a new name"
    )
    assert len({trial.user_attrs["objective_code"] for trial in study.trials()}) == 2


def test_a_second_interrupt_ends_the_function_at_once(study):
    def climb(config, state):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        yield 0.5, None

    with pytest.raises(KeyboardInterrupt):
        study.run(objective=climb, progress=False)
    assert [trial.state for trial in study.trials()] == ["waiting"] * 4


def test_another_thread_says_what_stops_it(study, capsys):
    thread = threading.Thread(target=study.run, kwargs={"objective": climb, "progress": False})
    thread.start()
    thread.join()
    assert "stop() can" in capsys.readouterr().err
    assert study.status().trials["complete"] == 4


def test_a_paused_study_is_not_run(study, capsys):
    study.pause()
    study.run(objective=climb)
    assert f"hpo: study '{NAME}' is paused" in capsys.readouterr().err
    assert study.status().trials["waiting"] == 4


def test_a_function_with_another_name_is_refused(study):
    def other(config, state):
        yield 0.5, None

    with pytest.raises(hpo.HpoError, match=r"has the objective 'tests\.support\.api_study:climb', found"):
        study.run(objective=other)


def give_value(config, state):
    return config.speed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("climb", r"'yield value, state'; found 'climb'"),
        (climb(None, None), r"found what a call of 'climb' returned; give .* itself, objective=climb"),
        (give_value, r"found the function 'give_value', which never yields"),
    ],
)
def test_what_is_no_generator_function_is_refused_before_a_trial(study, given, message):
    with pytest.raises(hpo.HpoError, match=message):
        study.run(objective=given)
    assert study.status().trials["waiting"] == 4


def test_a_callable_that_hides_its_yield_is_run(study):
    study.run(objective=functools.partial(climb), progress=False)
    assert study.status().trials["complete"] == 4


def test_a_study_of_hpos_own_training_takes_no_function(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(hpo.HpoError, match=r"has no train\.objective"):
        hpo.create("quickstart", store=url).run(objective=climb)


def test_a_function_of_the_main_module_cannot_run_in_workers(url, tmp_path, monkeypatch):
    def search_here(config, state):
        yield config.speed, None

    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        hpo.HpoError, match=r"no function 'search_here' is defined here; .* define it first"
    ):
        hpo.create(STUDY, overrides={"train.objective": "__main__:search_here"}, store=url)
    search_here.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "search_here", search_here, raising=False)
    study = hpo.create(STUDY, overrides={"train.objective": "__main__:search_here"}, store=url)
    with pytest.raises(
        hpo.HpoError, match=r"define it in that script .* call study\.run\(objective=search_here\) there$"
    ):
        study.run()
    study.run(objective=search_here, progress=False)
    assert study.status().trials["complete"] == 4
    page = study.report("report.html").read_text()
    assert "<code>study.finish(top=3, seeds=5, objective=search_here)</code>" in page
    assert "hpo export" not in page
    with pytest.raises(
        hpo.HpoError, match=r"call study\.finish\(top=3, seeds=2, objective=search_here\) there$"
    ):
        study.finish(seeds=2)
    assert [each.study for each in hpo.studies(store=url)] == [NAME]
    found = study.finish(top=1, seeds=2, progress=False, objective=search_here)
    assert len(study.finish(top=1, seeds=2).winner.trials) == len(found.winner.trials) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": "gpu"}, "--devices 'gpu': want auto, cpu"),
        ({"lease_seconds": 0}, "lease_seconds: want a number from 1 to 86,400, found 0"),
        ({"cache_gb": float("nan")}, "cache_gb: want a number from 0 to 1,000,000, found nan"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(study, options, message):
    with pytest.raises(hpo.HpoError) as raised:
        study.run(objective=climb, **options)
    assert str(raised.value).startswith(message)


def test_a_wrong_variable_is_named(study, monkeypatch):
    monkeypatch.setenv("HPO_LEASE_SECONDS", "soon")
    with pytest.raises(hpo.HpoError, match=r"^HPO_LEASE_SECONDS: want .*, found 'soon'"):
        study.run(objective=climb)


OWN = """
def climb(config, state):
    for epoch in range(1, config.epochs + 1):
        print("speed", config.speed)
        yield config.speed * epoch, None
"""


@pytest.mark.processes
def test_workers_are_processes(place, monkeypatch, capfd):
    monkeypatch.chdir(place.path)
    with closed_engines():
        study = hpo.create(STUDY, overrides={"train.objective": "own:climb"})
        study.run("cpu")
        err = capfd.readouterr().err
        assert f"hpo: study '{NAME}': 1 worker on cpu" in err
        assert "trial 0: speed" in err
        assert study.status().trials["complete"] == 4
        study.run()
        assert "is complete, all 4 trials have run; nothing to do" in capfd.readouterr().err
