"""Workers that keep a history of the other trials: ours, and the same on plain Optuna."""

import random
from dataclasses import dataclass, field

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search import pruners, samplers
from hpo.store import lease, process, queue, studies
from hpo.store.history import History
from hpo.store.storage import Storage
from hpo.study import space
from hpo.study.definition import Definition
from hpo.study.search_options import Pruner, Sampler
from hpo.workers import pruning
from hpo.workers.setting import choose_setting
from tests.support import lease_worker
from tests.support.lease_worker import NAME

EPOCHS = 9


def study_of(trials: int, sampler: str = "tpe", pruner: str = "none") -> Definition:
    definition = lease_worker.definition(trials)
    choice = space.Parameter(name="optimizer", kind="choice", values=space.Choices(choices=("sgd", "adam")))
    search = definition.search.model_copy(
        update={
            "sampler": Sampler(name=sampler),
            "pruner": Pruner(name=pruner, min_epochs=1, reduction_factor=3),
        }
    )
    train = {**definition.train, "epochs": EPOCHS}
    return definition.model_copy(
        update={"train": train, "space": (choice, *definition.space), "search": search}
    )


def accuracy(trial: FrozenTrial | optuna.Trial, epoch: int) -> float:
    """Return a made-up accuracy that varies between epochs and depends on the settings."""
    noise = random.Random(f"{trial.number}/{epoch}").random() / 5
    return trial.params["lr"] / 2 + (trial.params["optimizer"] == "sgd") / 5 + epoch / 50 + noise


@dataclass
class Worker:
    """A worker that keeps its history from trial to trial; ``step`` runs one epoch of its trial."""

    url: str
    definition: Definition
    claim: lease.Claim | None = None
    epoch: int = 0
    storage: Storage = field(init=False)
    history: History = field(init=False)

    def __post_init__(self) -> None:
        self.storage = studies.open_storage(self.url, create=False)
        self.history = History(
            self.storage, studies.find_study_id(self.storage, NAME), NAME, self.definition.metric
        )

    def start(self) -> None:
        owner = process.current_owner("cpu")
        self.claim = queue.claim_trial(
            self.storage, self.history.study_id, owner, lease_seconds=60, max_attempts=1
        )
        self.trial, _, study = choose_setting(self.claim, self.history, self.definition)
        self.pruner = pruning.TrialPruner(study, self.history, self.definition)
        self.epoch = 0

    def step(self) -> None:
        self.epoch += 1
        report = (self.epoch, accuracy(self.trial, self.epoch))
        self.pruner.note_report(*report)
        last = self.epoch == EPOCHS
        self.claim.commit(report=report, ask_pruner=None if last else self.pruner.decide)
        try:
            if last:
                self.claim.end(TrialState.COMPLETE, value=report[1])
                self.claim = None
            else:
                self.pruner.raise_if_pruned()
        except pruning.TrialPrunedByRule as pruned:
            self.claim.end(TrialState.PRUNED, value=report[1], system_attributes=pruned.attributes)
            self.claim = None


@dataclass
class OptunaWorker:
    """The same worker on plain Optuna, with a study of its own."""

    study: optuna.Study
    definition: Definition
    trial: optuna.Trial | None = None
    epoch: int = 0

    def start(self) -> None:
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = samplers.build_sampler(self.definition, number)
        self.study.pruner = pruners.build_pruner(self.definition)
        if isinstance(self.study.pruner, pruners.CachedHyperbandPruner):
            settings = self.definition.search.pruner
            self.study.pruner = optuna.pruners.HyperbandPruner(
                settings.min_epochs, EPOCHS, settings.reduction_factor
            )
        self.pruner = self.study.pruner
        self.trial = self.study.ask()
        for parameter in self.definition.space:
            space.suggest_value(self.trial, parameter)
        self.epoch = 0

    def step(self) -> None:
        self.epoch += 1
        self.study.pruner = self.pruner
        self.trial.report(accuracy(self.trial, self.epoch), self.epoch)
        if self.epoch == EPOCHS:
            self.study.tell(self.trial, accuracy(self.trial, self.epoch))
            self.trial = None
        elif self.trial.should_prune():
            self.study.tell(self.trial, state=TrialState.PRUNED)
            self.trial = None
