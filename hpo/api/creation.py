"""Storing a study: a file, the name of one that ships with hpo, or a dict is checked, then stored."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpo import logs
from hpo.api import images
from hpo.api.locations import Locations, find_locations
from hpo.api.study import Study
from hpo.artifacts.folders import Artifacts
from hpo.errors import DefinitionError, HpoError, ImagesChanged
from hpo.store import studies, study_images, waits, warm_start
from hpo.store.storage import Storage
from hpo.store.studies import Stored
from hpo.study import file, source_text
from hpo.study.definition import Definition
from hpo.study.strategy import describe_strategy
from hpo.study.toml_text import dump_document, dump_value

if TYPE_CHECKING:
    from hpo.training.used_files import UsedFiles

StudySource = str | os.PathLike[str] | Mapping[str, Any]
GIVEN = "the dict"  # how error messages name a study that is no file
_REPLACED = (
    "another definition was stored under this name, of which no trial had run an epoch; it is replaced"
)


@dataclass(frozen=True, kw_only=True)
class CreatedStudy:
    """A study in a store, and what was done to put it there."""

    study: Study
    result: Stored
    trials: int  # that it has now, without replicates
    trials_before: int = 0  # that it had, if it was stored already
    files: int = 0  # image files of the user's own that it uses

    def describe_result(self) -> str:
        """Return what was done, as in ``extended from 8 to 14 trials``."""
        counts = f" from {self.trials_before} to {self.trials} trials"
        return f"{self.result}{counts * (self.result == Stored.EXTENDED)}"


def create(
    study: StudySource,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    store: str | None = None,
    artifacts: str | os.PathLike[str] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Study:
    """Store a study without running it, extend a stored one, or find it as it is.

    The same call can be repeated. More trials, a larger budget or more points extend the stored study. Any
    other change is refused once a trial runs or was queued by hand; before that, it replaces the study.
    What the user should know of the images, and of how the study searches, is printed to stderr.

    Args:
        study: A study file, the name of a study that ships with hpo, or a dict of what a file contains.
        name: The study's name; None: the name in the file or dict, or else the file's.
        overrides: Values of options by their full name, which replace those of the file, as ``--set`` does.
        store: URL of the database; None: ``HPO_STORE``, or ``sqlite:///storage/hpo.db``.
        artifacts: Folder or URL of the study's files; None: ``HPO_ARTIFACTS``, or ``storage/artifacts``.
        data: Folder of the data sets; None: ``HPO_DATA``, or ``storage/data``.

    Returns:
        The study.

    Raises:
        DefinitionError: Anything in the study is wrong, or the stored study forbids the change.
        DataError: Images of the study cannot be used, or are not those that it began with.
        StoreError: The store cannot be opened, or refuses the request.

    Examples:
        >>> study = hpo.create("quickstart", overrides={"search.trials": 8})
        >>> study = hpo.create({
        ...     "name": "rates",
        ...     "train": {"dataset": "digits", "image_size": 32, "weights": "none", "epochs": 2},
        ...     "space": {"lr": {"low": 1e-4, "high": 1e-1, "log": True}},
        ...     "search": {"trials": 4},
        ... })
    """
    sets = [f"{key}={dump_value(value, f'overrides: {key}')}" for key, value in (overrides or {}).items()]
    return create_study(study, sets, name, find_locations(store, artifacts, data)).study


def create_study(
    study: StudySource,
    sets: Iterable[str],
    name: str | None,
    locations: Locations,
    *,
    images_needed_here: bool = False,
) -> CreatedStudy:
    """Store a study as ``create`` does.

    Args:
        study: As ``create`` takes it.
        sets: ``KEY=VALUE`` texts, as ``--set`` takes them.
        name: As ``create`` takes it.
        locations: Where to store it.
        images_needed_here: Fail if the user's own images are missing, since workers start here.

    Raises:
        HpoError: As ``create`` raises it.
    """
    sets = list(sets)
    text, definition = _read_source(study, sets, name, locations)
    used = images.list_images(definition, locations.data, needed_here=images_needed_here)
    storage = studies.open_storage(locations.store, create=True)
    source = source_text.annotate_source(text, sets, name)
    is_new = definition.name not in studies.study_names(storage)
    before = 0 if is_new else studies.read_definition(storage, definition.name).setting_count
    result = _store_study(storage, definition, source, used, locations.artifacts, is_new=is_new)
    if result == Stored.REPLACED:
        logs.tell(f"study '{definition.name}': {_REPLACED}")
    return CreatedStudy(
        study=Study(definition.name, locations, storage),
        result=result,
        trials=definition.setting_count,
        trials_before=before,
        files=0 if used is None else len(used.files),
    )


def _read_source(
    study: StudySource, sets: Iterable[str], name: str | None, locations: Locations
) -> tuple[str, Definition]:
    """Return the text of a study file or of a dict, and its checked definition."""
    if isinstance(study, Mapping):
        text = dump_document(study, GIVEN)
        return text, file.load_study_text(text, GIVEN, sets, name)
    try:
        path = file.find_study_file(os.fspath(study))
    except DefinitionError as error:
        if start := _start_of_stored(os.fspath(study), locations.store):
            stored = f"{study}: no study file; the store has a study of this name, which {start} runs"
            raise DefinitionError(stored) from error
        raise
    text = file.read_study_file(path)
    return text, file.load_study_text(text, str(path), sets, name, path.stem)


def _start_of_stored(name: str, store: str) -> str:
    """Return what starts workers of a study that is stored; empty if there is none of this name."""
    with contextlib.suppress(HpoError):
        definition = studies.read_definition(studies.open_storage(store, create=False), name)
        return waits.start_command(name, definition.script_function)
    return ""


def _store_study(
    storage: Storage,
    definition: Definition,
    source: str,
    used: "UsedFiles | None",
    artifacts: str,
    *,
    is_new: bool,
) -> Stored:
    """Store a study, extend it or replace it; of other images than it began with, say which differ."""
    fingerprint = None if used is None else used.fingerprint
    if is_new:
        _report_search(storage, definition, fingerprint)
    try:
        return studies.create_study(storage, definition, source, fingerprint)
    except ImagesChanged as error:
        assert used is not None
        raise study_images.changed_error(storage, Artifacts(artifacts), definition, used) from error


def _report_search(storage: Storage, definition: Definition, fingerprint: str | None) -> None:
    """Report how a new study searches, and what its sampler learns from."""
    warm_starts = warm_start.find_warm_starts(storage, definition, fingerprint)
    for line in (describe_strategy(definition), *warm_starts):
        if line is not None:
            logs.tell(str(line))
