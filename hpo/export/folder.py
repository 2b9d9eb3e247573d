"""Export a trial's model as a self-contained folder: weights, settings, metrics, model card, labels.

The folder appears complete, after the model has been loaded from it once, or not at all. It contains no
names of machines or of their folders, since it is meant to be shared.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from optuna.trial import FrozenTrial
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpo.analysis import by_class, records
from hpo.analysis.formatting import describe_split
from hpo.artifacts import durable, names
from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, StoreError, join_names, quote_value
from hpo.export import card, predict, sheet
from hpo.export.card import Metrics
from hpo.export.predict import Description, Preprocessing
from hpo.export.winner import choose_winner
from hpo.store import plan, rows, status, studies
from hpo.store.storage import Storage
from hpo.study.definition import Definition
from hpo.training import catalog, libraries
from hpo.training.config import Config, FinalConfig
from hpo.training.presets import preset_of


class TrainingData(BaseModel):
    """The part of a trial's ``settings.json`` that describes its training data."""

    model_config = ConfigDict(frozen=True)

    classes: tuple[str, ...] = Field(min_length=1)
    channels: int
    pixels: int = Field(ge=1, le=predict.MAX_SIDE_PIXELS)  # side length of the images
    images: Mapping[str, int]  # per split
    skipped: int  # unreadable files that were left out


@dataclass(frozen=True, kw_only=True)
class ChosenTrial:
    """A trial to export, with its weights."""

    trial: FrozenTrial
    definition: Definition
    config: Config
    why: str  # a phrase on why this trial
    weights: str  # name in the artifacts
    epoch: int  # after which the weights were saved

    @property
    def folder(self) -> str:
        """The trial's folder in the artifacts."""
        return self.weights.rpartition("/")[0]


def export_trial(
    storage: Storage, name: str, number: int | None, artifacts: Artifacts, target: Path
) -> Metrics:
    """Export the winner of a study, or the trial with a given number.

    The winner is a run of the setting that ``hpo finish`` ranks first, if it has run; else the trial that
    ``hpo best`` shows.

    Writes ``config.json``, ``labels.txt``, ``model.safetensors``, ``metrics.json`` and ``README.md``, the
    model card; and ``samples.png``, unless nothing is known of the study's images. The weights are the
    saved ones: of the best epoch so far, or of the last in ``hpo finish``.

    Args:
        storage: The store; it is only read.
        name: The study.
        number: The trial, in any state if it has weights; None takes the winner.
        artifacts: Where the trial's files are.
        target: The folder to write: a new or an empty one.

    Returns:
        What ``metrics.json`` says.

    Raises:
        StoreError: There is no such study or trial, another tool made the study, it has no complete trial,
            the trial has no weights, or it has a custom objective.
        StoreUnavailable: The database stays unavailable.
        ArtifactError: Files of the trial are missing or damaged, or the folder cannot be written.
        ArtifactsUnavailable: The artifacts are behind a URL and unavailable.
        DefinitionError: The model is a network of the user's own that cannot be built here.
    """
    choice = _choose_trial(storage, name, number, artifacts)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ArtifactError(f"--to {target}: exists and is not an empty folder; choose a new folder")
        data = _training_data(choice, artifacts)
        metrics = _metrics(choice, data)
        with durable.atomic_folder(target) as draft:
            _write_files(draft, choice, data, metrics, artifacts)
    except OSError as error:
        raise ArtifactError(f"--to {target}: {error.strerror or error}") from error
    return metrics


def _choose_trial(storage: Storage, name: str, number: int | None, artifacts: Artifacts) -> ChosenTrial:
    why = "asked for by its number"
    if number is None:
        winner = choose_winner(storage, name)
        name, number, why = winner.study, winner.trial, winner.why
    trials = status.read_trials(storage, name)
    definition = studies.read_definition(storage, name)
    trial = next((each for each in trials if each.number == number), None)
    if trial is None:
        raise StoreError(f"study '{name}' has no trial {number}")
    weights = trial.user_attrs.get("weights")
    if weights is None:
        # Deleted weights leave null; a trial that has not reported any has no such attribute.
        deleted = f" any more (search.keep_weights = {definition.search.keep_weights})"
        raise StoreError(
            f"trial {number} of study '{name}' is {rows.STATE_NAMES[trial.state]} and has no weights"
            f"{deleted * ('weights' in trial.user_attrs)}; with weights: {_trials_with_weights(trials)}"
        )
    try:
        config = definition.trial_config(trial.params | trial.system_attrs.get(plan.RUN_OPTIONS, {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreError(
            f"trial {number} of study '{name}': its option {'.'.join(map(str, first['loc']))} cannot be "
            f"read ({first['msg']}); choose another trial with --trial"
        ) from error
    if not isinstance(config, Config):
        raise StoreError(
            f"study '{name}' has a custom objective ({config.objective}), so there is no image model to "
            f"export; its state at the best epoch, for torch.load, is {artifacts.path(weights)}"
        )
    library = libraries.library_of(config.model)
    if not catalog.is_user_network(config.model) and not library.has_model(config.model):
        found = quote_value(config.model)
        raise StoreError(
            f"trial {number} of study '{name}': {libraries.name_of(config.model)} has no model {found} to "
            "classify with"
        )
    epoch = names.epoch_of_weights(weights)
    if epoch not in trial.intermediate_values:
        raise StoreError(
            f"trial {number} of study '{name}': its weights are those of epoch {epoch}, for which it has "
            f"reported no value; with weights: {_trials_with_weights(trials)}"
        )
    return ChosenTrial(
        trial=trial, definition=definition, config=config, why=why, weights=weights, epoch=epoch
    )


def _trials_with_weights(trials: list[FrozenTrial]) -> str:
    numbers = [str(trial.number) for trial in trials if trial.user_attrs.get("weights")]
    return join_names(numbers, 10) or "none yet"


def _training_data(choice: ChosenTrial, artifacts: Artifacts) -> TrainingData:
    name = f"{choice.folder}/settings.json"
    try:
        data = TrainingData.model_validate(json.loads(artifacts.read(name))["data"])
        data.images[_measured_split(choice.config)]  # needed for the card
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{artifacts.path(name)}: lacks the class names; "
            "the trial was run by an older version of hpo, or the file was changed"
        ) from error
    return data


def _measured_split(config: Config) -> str:
    """Return the split that a trial was measured on."""
    return "test" if isinstance(config, FinalConfig) else config.selection


def _metrics(choice: ChosenTrial, data: TrainingData) -> Metrics:
    (found,) = records.trial_records(choice.definition, [choice.trial])
    selection, split = choice.config.selection, _measured_split(choice.config)
    return Metrics(
        study=choice.definition.name,
        trial=found.number,
        state=found.state,
        metric=found.metric.name,
        value=found.curve[choice.epoch],
        split=split,
        images=found.images or data.images[split],
        baseline=found.baseline,
        objectives=found.reached or None,
        note=describe_split(selection),
        chosen=choice.why,
        optimistic=selection == "test",
        epoch=choice.epoch,
        epochs=found.epochs,
        values=list(found.curve.values()),
        wall_time_seconds=found.wall_seconds or None,
        epoch_seconds=list(found.epoch_seconds) or None,
        hardware={key: value for key, value in (found.hardware_facts or {}).items() if key != "host"},
    )


def _describe_model(choice: ChosenTrial, data: TrainingData, metrics: Metrics) -> Description:
    """Return the content of ``config.json``."""
    config, preset = _without_paths(choice.config), preset_of(choice.config)
    library, classes = libraries.library_of(config.model), len(data.classes)
    return Description(
        model=config.model,
        arguments=library.builder_arguments(config.model, classes, config.weights, config.image_size),
        preprocessing=Preprocessing(
            transparency=config.transparency,
            resize=config.resize,
            pixels=data.pixels,
            grey=data.channels == 1,
            image_size=config.image_size,
            max_pixels=config.max_pixels,
            **asdict(preset),
        ),
        settings=config.model_dump(),
        study=metrics.study,
        trial=metrics.trial,
    )


def _write_files(
    draft: Path, choice: ChosenTrial, data: TrainingData, metrics: Metrics, artifacts: Artifacts
) -> None:
    """Write the files of the folder, then load the model from them as a check."""
    description = _describe_model(choice, data, metrics)
    labels = [" ".join(name.splitlines()) for name in data.classes]
    facts = by_class.read_data_facts(artifacts, choice.folder.rpartition("/")[0])
    confusion = by_class.read_confusion(artifacts, choice.weights)
    trained = card.TrainingFacts(
        labels=labels,
        images=data.images,
        skipped=data.skipped,
        params=choice.trial.params,
        facts=None if isinstance(facts, str) else facts,
        confusion=None if isinstance(confusion, str) else confusion,
    )
    contents = {
        predict.CONFIG: description.model_dump_json(indent=2),
        predict.LABELS: "".join(f"{label}\n" for label in labels),
        "metrics.json": json.dumps(metrics.document(), indent=2),
        "README.md": card.model_card(description, metrics, trained),
    }
    for name, content in contents.items():
        durable.write_file(draft / name, content.encode(errors="replace"))
    durable.write_file(draft / predict.WEIGHTS, artifacts.read(choice.weights))
    if trained.facts is not None and trained.facts.samples:
        durable.write_file(draft / sheet.FILE_NAME, sheet.draw_sheet(trained.facts))
    try:
        predict.Predictor(draft)
    except ArtifactError as error:
        raise ArtifactError(
            f"{artifacts.path(choice.weights)}: is damaged, or not the weights of trial {metrics.trial} "
            f"({error.__cause__})"
        ) from error


def _without_paths(config: Config) -> Config:
    """Return the settings with each path reduced to its last part."""
    kind, colon, path = config.dataset.partition(":")
    dataset = f"{kind}{colon}{Path(path).name}"
    return config.model_copy(update={"dataset": dataset, "weights": Path(config.weights).name})
