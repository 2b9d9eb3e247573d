"""Reading a study file: TOML and ``--set`` texts are checked and become a definition."""

import contextlib
import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.errors import QUOTED_LENGTH, DefinitionError, quote_value, shorten, suggestion
from hpo.study import space_table
from hpo.study.aliases import SEARCH_ALIASES, TRAIN_ALIASES, rename_aliases, rename_setting
from hpo.study.checks import Problems, check_keys, check_storable, require_table, validate_record
from hpo.study.consistency import check_definition, check_models, check_point_in_space, grid_points
from hpo.study.definition import Definition, Point
from hpo.study.hints import SEARCH_HINTS
from hpo.study.name_checks import is_file
from hpo.study.option_checks import validate_options
from hpo.study.overrides import SECTIONS, apply_set, expand_names, parse_value
from hpo.study.points import parse_point, parse_points
from hpo.study.search_options import Search
from hpo.study.strategy import with_strategy
from hpo.training import config, option_tables
from hpo.training.metric import METRICS

PACKAGE_FOLDER = Path(__file__).parents[1]
NAME_PATTERN = r"^[^-\s/\x00-\x1f]([^/\x00-\x1f]{0,98}[^\s/\x00-\x1f])?$"  # and printable
# The top-level keys of a study file are fields of its definition; the other fields are set elsewhere.
_SET_ELSEWHERE = ("enqueued", "left_out_trials", "finishes", "left_out")
KEYS = tuple(name for name in Definition.model_fields if name not in _SET_ELSEWHERE)

# Options at the top of a file, which belong into a table.
_MISPLACED = {
    **dict.fromkeys((*Search.model_fields, *SEARCH_ALIASES), "it belongs below [search]"),
    **dict.fromkeys((*config.OPTIONS, *TRAIN_ALIASES), "it belongs below [train], [space] or [[points]]"),
}


def shipped_studies() -> dict[str, Path]:
    """Return the study files that ship with hpo, by name, from the installed package or the checkout."""
    shipped_in_wheel = PACKAGE_FOLDER / "studies"
    folder = shipped_in_wheel if shipped_in_wheel.is_dir() else PACKAGE_FOLDER.parent / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def find_study_file(study: str) -> Path:
    """Return the file that STUDY names: a path, or else the name of a study that ships with hpo.

    A path may begin with ``~``.

    Raises:
        DefinitionError: If there is no such file, or it is a folder.
    """
    if is_file(study):
        return Path(study).expanduser()
    names = shipped_studies()
    if study in names:
        return names[study]
    with contextlib.suppress(OSError):  # a name too long for any file
        if Path(study).is_dir():
            raise DefinitionError(f"{study or repr(study)}: want a study file, found a folder")
    hint = _suggest_file_beside(study) or suggestion(Path(study).stem, names) or ";"
    raise DefinitionError(
        f"{shorten(study, QUOTED_LENGTH)}: no such study file, and none of that name ships with hpo"
        f"{hint} those that ship: {', '.join(names)}"
    )


def _suggest_file_beside(study: str) -> str:
    """Return a hint at a TOML file with a similar name, in the folder of a path that names none; or ""."""
    path = Path(study)
    with contextlib.suppress(RuntimeError, OSError):  # no such home folder, no permission, too long
        beside = {each.stem: each for each in path.expanduser().parent.glob("*.toml")}
        near = difflib.get_close_matches(path.stem, beside, n=1)
        return f"; did you mean '{beside[near[0]]}'?" if near else ""
    return ""


def load_study_file(path: Path, sets: Iterable[str] = (), name: str | None = None) -> Definition:
    """Read and check a study file.

    Models are checked against torchvision, which may import torch. A custom objective is imported.

    Args:
        path: The file.
        sets: ``KEY=VALUE`` texts of ``--set``, applied in order before the checks.
        name: The study's name, from ``--name``; None: the name in the file, or else the file's own.

    Raises:
        DefinitionError: If the file cannot be read, or anything in it or in ``sets`` is wrong.
        Exception: What a custom objective's module raises while it is imported, unchanged.
    """
    return load_study_text(read_study_file(path), str(path), sets, name, path.stem)


def load_study_text(
    text: str,
    where: str,
    sets: Iterable[str] = (),
    name: str | None = None,
    default_name: str | None = None,
) -> Definition:
    """Check the text of a study file, as ``load_study_file`` does.

    Args:
        text: TOML.
        where: The file, as error messages name it.
        sets: ``KEY=VALUE`` texts of ``--set``, applied in order before the checks.
        name: The study's name; None: the name in the text, or else ``default_name``.
        default_name: The name of a study whose text has none.

    Raises:
        DefinitionError: If anything in the text or in ``sets`` is wrong.
        Exception: What a custom objective's module raises while it is imported, unchanged.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # not TOML, or nested too deeply for Python
        raise DefinitionError(f"{where}: not a TOML file: {error}") from error
    check_storable(document, where)
    document = rename_aliases(document, where)
    problems, keys = Problems("--set"), []
    for each in sets:
        with problems.collect():
            keys.append(apply_set(document, each))
    problems.report()
    document["name"] = document.get("name", default_name) if name is None else name
    with _blamed_on_sets(where, keys):
        found = parse_document(document, where)
        check_models(found, where)
    return found


@contextlib.contextmanager
def _blamed_on_sets(where: str, keys: Sequence[str]) -> Iterator[None]:
    """Name ``--set`` in place of the file in each problem with something that it has set."""
    try:
        yield
    except DefinitionError as error:
        problems = Problems(where)
        for text in error.problems:
            problem = text.removeprefix(f"{where}: ")
            is_set = any(_is_about(problem, key) for key in keys)
            with problems.collect():
                raise DefinitionError(f"--set: {problem}" if is_set else text) from error
        problems.report()


def _is_about(problem: str, key: str) -> bool:
    """Return whether a problem begins with a key, a part of it, or what it is a part of."""
    named = problem.split(maxsplit=1)[0].rstrip(":")
    named = named if named.startswith(tuple(f"{each}." for each in SECTIONS)) else f"train.{named}"
    return f"{named}.".startswith(f"{key}.") or key.startswith(f"{named}.")


def read_study_file(path: Path) -> str:
    """Return the text of a study file, without the byte order mark that Windows' Notepad writes.

    Raises:
        DefinitionError: If it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DefinitionError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise DefinitionError(f"{path}: not a TOML file: {error}") from error


def point_from_texts(found: Definition, texts: Iterable[str]) -> Point:
    """Return the setting that ``hpo enqueue`` queues, checked against its study.

    Args:
        found: The study's definition.
        texts: ``KEY=VALUE`` texts, one per option.

    Raises:
        DefinitionError: If a text is not of this form, an option is given twice, or the study cannot run
            the setting; always for a study made by ``hpo finish``.
        Exception: What a custom objective's module raises while it is imported, unchanged.
    """
    where = f"study '{found.name}'"
    if found.finishes is not None:
        raise DefinitionError(
            f"{where} evaluates on the test split: only 'hpo finish {found.finishes}' can add to it, "
            "with a larger --top or --seeds"
        )
    given = _parse_settings(texts, where)
    if found.option_table is not option_tables.CUSTOM_OPTIONS:
        given = rename_setting(given, where, "setting")
    allowed = [*found.parameters(), *config.RUN_OPTIONS]
    for option in given:
        if option in found.train and option not in allowed:
            raise DefinitionError(
                f"{where}: {option} is fixed at {quote_value(found.train[option])}; a setting may name "
                f"{', '.join(allowed)}"
            )
    if found.option_table is option_tables.CUSTOM_OPTIONS:  # whose options no table lists
        check_keys(given, allowed, where, "setting")
    check_storable(given, where)
    listed = parse_point(given, found.train, where, "setting")
    extended = found.model_copy(update={"points": (), "enqueued": (listed,)})
    check_point_in_space(extended, listed, where, "setting")
    check_models(extended, where)
    return listed


def _parse_settings(texts: Iterable[str], where: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for text in texts:
        key, equals, raw = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise DefinitionError(f"{quote_value(text)}: want KEY=VALUE, such as lr=0.001")
        if key in given:
            raise DefinitionError(f"{where}: {key} is given twice; give it once")
        given[key] = parse_value(raw)
    return given


def parse_document(document: Mapping[str, Any], where: str) -> Definition:
    """Return the definition in a study document, checked in all but its models.

    With the sampler "grid" and without points, it has a point for each combination of ``[space]``.

    Args:
        document: The study file as ``tomllib`` reads it, with a ``name``.
        where: The study file, as error messages name it.

    Raises:
        DefinitionError: If anything in it is wrong. It names every problem that a table has by itself;
            only if there is none, how the tables fit together is checked.
    """
    document = rename_aliases(document, where)
    fixed, searched, search = (
        require_table(document.get(key, {}), where, key) for key in ("train", "space", "search")
    )
    options, problems = option_tables.option_table(fixed), Problems(where)
    with problems.collect():
        check_keys(document, KEYS, where, "", _MISPLACED)
    with problems.collect():
        name = _check_name(document.get("name"), where)
    with problems.collect():
        checked = validate_options(fixed, where, "train", options)
    with problems.collect():
        parsed = space_table.parse_space(searched, where, options)
    with problems.collect():
        how = with_strategy(validate_record(Search, expand_names(search), where, "search", SEARCH_HINTS))
    problems.report()
    if how.objectives and options is not option_tables.CUSTOM_OPTIONS:
        checked = {"metric": _first_metric(how.objectives, checked, where), **checked}
    train = config.settings_of(options.config_class.model_validate(checked))
    parameters = space_table.check_space(parsed, train, where, options)
    for parameter in parameters:
        if parameter.name in fixed:
            raise DefinitionError(
                f"{where}: {parameter.name}: both fixed in [train] and searched in [space]; keep one"
            )
    found = Definition(
        name=name,
        train=train,
        space=parameters,
        search=how,
        points=tuple(parse_points(document.get("points", []), train, where)),
        left_out=frozenset(train) - checked.keys(),
    )
    if not found.searches and not found.points:
        found = found.model_copy(update={"points": tuple(grid_points(found, where))})
    check_definition(found, where)
    return found


def _first_metric(objectives: Sequence[str], train: Mapping[str, Any], where: str) -> str:
    """Return the first metric among the objectives, which trials report; [train] may give no other."""
    first = next((name for name in objectives if name in METRICS), None)
    if first is None:
        raise DefinitionError(
            f"{where}: search.objectives: want at least one metric, of {', '.join(METRICS)}; found "
            f"{quote_value(list(objectives))}"
        )
    if train.get("metric", first) != first:
        raise DefinitionError(
            f"{where}: train.metric: {quote_value(train['metric'])} is not {quote_value(first)}, the first "
            "metric of search.objectives, which trials report after each epoch; leave it out"
        )
    return first


def _check_name(given: Any, where: str) -> str:
    if not isinstance(given, str) or not re.fullmatch(NAME_PATTERN, given) or not given.isprintable():
        raise DefinitionError(
            f"{where}: name: want 1 to 100 printable characters, without '/', a space at an end or a '-' "
            f"in front, found {quote_value(given)}"
        )
    return given
