"""The trial that ``hpo export`` takes if none is named, and why."""

from dataclasses import dataclass

from optuna.trial import FrozenTrial

from hpo.analysis import finish_result, finish_text, records, results
from hpo.analysis.finish_result import FinishResult
from hpo.errors import StoreError
from hpo.store import status, studies
from hpo.store.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Winner:
    """A trial of a study."""

    study: str  # the study asked for, or the one of ``hpo finish``
    trial: int
    why: str  # a phrase


def choose_winner(storage: Storage, name: str) -> Winner:
    """Return the trial to export of a study.

    If ``hpo finish`` has run, it is a run of the setting that this ranks first: of the first seed whose
    weights were kept, since the highest of several scores on the test split would be too high. Where no
    weights of that setting were kept, it is the setting's best trial in the search. Without ``hpo finish``
    it is the best trial of the setting that ``hpo best`` shows first; with several objectives, of the knee
    of the front.

    Args:
        storage: The store; it is only read.
        name: The study, or the one that ``hpo finish`` made of it.

    Raises:
        StoreError: There is no such study, another tool made it, or it has no complete trial.
        StoreUnavailable: The database stays unavailable.
        DefinitionError: Another version of hpo made the study.
    """
    source = studies.read_definition(storage, name).finishes or name
    found = finish_result.stored_result(storage, source) if source in studies.study_names(storage) else None
    if found is not None:
        return _finish_winner(found, status.read_trials(storage, found.plan.name))
    definition = studies.read_definition(storage, name)
    trials = records.trial_records(definition, status.read_trials(storage, name))
    chosen = results.best_setting(definition, trials)
    if chosen is None:
        raise StoreError(results.no_complete_trial_message(definition, trials))
    first, run = chosen.trial.number, chosen.runs[0].number
    what = "the best of the search"
    if chosen.front > 1:
        what = f"the knee of the Pareto front; 'hpo best {name}' shows all {chosen.front}, for --trial"
    elif chosen.front:
        what = "the only setting on the Pareto front"
    if run != first:
        what = f"the best of the {len(chosen.runs)} seeds of trial {first}'s setting, {what}"
    if chosen.selection != "test":  # such a study cannot be finished: it has chosen on the test split
        what = f"{what}; 'hpo finish {name}' compares the best settings over several seeds"
    return Winner(study=name, trial=run, why=what)


def _finish_winner(found: FinishResult, trials: list[FrozenTrial]) -> Winner:
    first, why = found.winner, finish_text.winner_text(found)
    with_weights = {trial.number for trial in trials if trial.user_attrs.get("weights")}
    kept = [(seed, number) for seed, number in sorted(first.trials.items()) if number in with_weights]
    if not kept:
        why += "; no weights of its runs were kept, so this is its trial in the search"
        return Winner(study=found.plan.study, trial=first.setting.best_run, why=why)
    seed, number = kept[0]
    return Winner(study=found.plan.name, trial=number, why=f"{why}; this is its run with seed {seed}")
