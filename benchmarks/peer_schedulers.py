"""SMAC3 and Syne Tune as schedulers of a simulated study, each with its own defaults.

Both are asked and told in this process, as their manuals describe: no worker, server or back end is
started.
"""

import datetime
import logging
import math
import tempfile
from pathlib import Path
from typing import Any

import ConfigSpace
import numpy as np
from smac import MultiFidelityFacade, Scenario
from smac.intensifier.hyperband_utils import get_n_trials_for_hyperband_multifidelity
from smac.main.exceptions import ConfigurationSpaceExhaustedException
from smac.runhistory import TrialInfo, TrialValue
from syne_tune import config_space
from syne_tune.backend.trial_status import Trial
from syne_tune.optimizer.baselines import ASHABORE
from syne_tune.optimizer.scheduler import SchedulerDecision

from benchmarks.peer_simulation import Job
from benchmarks.peer_spaces import decode_setting, encode_values, peer_range, searched_parameters
from hpo.study.definition import Definition
from hpo.study.space import Parameter

MIN_EPOCHS = 1  # the smallest budget of a trial

logging.getLogger("syne_tune").setLevel(logging.ERROR)  # each study would repeat the same warning


class SmacScheduler:
    """SMAC3's search with several fidelities: Hyperband, with a random forest that proposes settings.

    Conditional parameters are conditional in its space, too. A trial that reaches Hyperband's next stage
    continues where it ended. Hyperband's budgets are rounded up to whole epochs.

    Args:
        definition: The study to search.
        epochs: The epochs of a whole training.
        max_epochs: The epochs of all trials together.
        seed: Of all its random numbers.
    """

    def __init__(self, definition: Definition, *, epochs: int, max_epochs: int, seed: int) -> None:
        self.definition = definition
        budgets = {"min_budget": MIN_EPOCHS, "max_budget": epochs}
        with tempfile.TemporaryDirectory() as folder:  # it writes there now, and nothing later
            scenario = Scenario(
                smac_space(definition, seed),
                output_directory=Path(folder),
                deterministic=True,
                n_trials=get_n_trials_for_hyperband_multifidelity(
                    max_epochs, **budgets, print_summary=False
                ),
                seed=seed,
                **budgets,
            )
            self.facade = MultiFidelityFacade(scenario, logging_level=logging.ERROR)
        self.numbers: dict[ConfigSpace.Configuration, int] = {}
        self.asked: dict[int, TrialInfo] = {}  # by the number of the trial

    def next_job(self) -> Job | None:
        """Return what an idle worker trains next; None if SMAC3 finds no other setting."""
        try:
            info = self.facade.ask()
        except (StopIteration, ConfigurationSpaceExhaustedException):
            return None
        number = self.numbers.setdefault(info.config, len(self.numbers))
        self.asked[number] = info
        return Job(trial=number, setting=decode_setting(self.definition, dict(info.config)))

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Report an epoch; SMAC3 learns the loss at the end of the trial's budget, and then ends it."""
        info = self.asked[trial]
        if epoch < math.ceil(info.budget - 1e-9):  # 27 * 3 ** -1 is more than 9
            return True
        self.facade.tell(info, TrialValue(cost=loss), save=False)
        return False


def smac_space(definition: Definition, seed: int) -> ConfigSpace.ConfigurationSpace:
    """Return a study's search space, with its conditions, as SMAC3 knows it."""
    parameters = searched_parameters(definition)
    known = {name: _smac_parameter(parameter) for name, parameter in parameters.items()}
    found = ConfigSpace.ConfigurationSpace(seed=seed)
    found.add(list(known.values()))
    for name, parameter in parameters.items():
        conditions = [
            ConfigSpace.InCondition(known[name], known[other], encode_values(parameters[other], wanted))
            for other, wanted in parameter.condition().items()
            if other in known
        ]
        if conditions:
            found.add(conditions[0] if len(conditions) == 1 else ConfigSpace.AndConjunction(*conditions))
    return found


def _smac_parameter(parameter: Parameter) -> Any:
    values, name = peer_range(parameter), parameter.name
    if values.kind == "choice":
        return ConfigSpace.Categorical(name, list(range(int(values.high) + 1)))
    kind = ConfigSpace.Integer if values.kind == "int" else ConfigSpace.Float
    return kind(name, (values.low, values.high), log=values.log)


class SyneTuneScheduler:
    """ASHABORE, Syne Tune's search that stops trials by ASHA and proposes settings by BORE.

    Its spaces have no conditions: it searches all parameters in each trial. Two similar searches of Syne
    Tune 0.16 are no peers here. ``BOHB`` models logarithmic ranges on a linear scale, and proposes whole
    numbers outside of their range. ``ASHACQR`` takes twice as long, and needs ``huggingface_hub``.

    Args:
        definition: The study to search.
        epochs: The epochs of a whole training.
        seed: Of all its random numbers; some are of NumPy's global generator, which gets this seed, too.
    """

    def __init__(self, definition: Definition, *, epochs: int, seed: int) -> None:
        self.definition = definition
        np.random.seed(seed)
        self.scheduler = ASHABORE(
            syne_tune_space(definition), metric="loss", time_attr="epoch", max_t=epochs, random_seed=seed
        )
        self.trials: list[Trial] = []  # by number

    def next_job(self) -> Job | None:
        """Return what an idle worker trains next: a new trial; None if Syne Tune finds no other setting."""
        suggestion = self.scheduler.suggest()
        if suggestion is None:
            return None
        number = len(self.trials)
        self.trials.append(Trial(number, suggestion.config, datetime.datetime.now()))
        self.scheduler.on_trial_add(self.trials[-1])
        return Job(trial=number, setting=decode_setting(self.definition, suggestion.config))

    def report(self, trial: int, epoch: int, loss: float) -> bool:
        """Report an epoch, and return whether the worker continues the trial."""
        found = self.trials[trial]
        decision = self.scheduler.on_trial_result(found, {"loss": loss, "epoch": epoch})
        if decision == SchedulerDecision.CONTINUE:
            return True
        self.scheduler.on_trial_remove(found)
        return False


def syne_tune_space(definition: Definition) -> dict[str, Any]:
    """Return a study's search space, without its conditions, as Syne Tune knows it."""
    return {name: _syne_tune_domain(each) for name, each in searched_parameters(definition).items()}


def _syne_tune_domain(parameter: Parameter) -> Any:
    values = peer_range(parameter)
    if values.kind == "choice":
        return config_space.choice(list(range(int(values.high) + 1)))
    if values.kind == "int":
        whole = config_space.lograndint if values.log else config_space.randint
        return whole(int(values.low), int(values.high))
    return (config_space.loguniform if values.log else config_space.uniform)(values.low, values.high)
