"""Reading a study file: TOML, ``--set`` texts, checks, and out comes a definition."""

import contextlib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hpo.errors import DefinitionError, quote_value, suggestion
from hpo.study import checks, definition, space, space_table
from hpo.study.definition import Definition, Point
from hpo.training import config, custom
from hpo.training.config import Config, OptionTable

LEARNING_SAMPLERS = ("tpe", "gp")  # samplers that learn from trials
SEED_WITH_REPLICATES = (
    "search.replicates gives each setting its seeds, from train.seed on; leave this one out"
)
PACKAGE_FOLDER = Path(__file__).parents[1]


def shipped_studies() -> dict[str, Path]:
    """Give the study files that come with hpo, by name."""
    shipped_in_wheel = PACKAGE_FOLDER / "studies"
    folder = shipped_in_wheel if shipped_in_wheel.is_dir() else PACKAGE_FOLDER.parent / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_study_file(study: str) -> Path:
    """Give the file that STUDY names: a path, or the name of one that ships."""
    if checks.is_file(study):
        return Path(study).expanduser()
    names = shipped_studies()
    if study in names:
        return names[study]
    with contextlib.suppress(OSError):  # a name too long for any file
        if Path(study).is_dir():
            raise DefinitionError(f"{study or repr(study)}: want a study file, found a folder")
    raise DefinitionError(
        f"{study}: no such study file, and none of that name ships with hpo"
        f"{suggestion(Path(study).stem, names) or ';'} those that ship: {', '.join(names)}"
    )


def load_study_file(path: Path, sets: Iterable[str] = (), name: str | None = None) -> Definition:
    """Read and check a study file, after applying ``--set KEY=VALUE`` texts and ``--name`` to it.

    Checks models against torchvision too, for which it may import torch. Raises DefinitionError, in one
    line, for whatever is wrong.
    """
    where = str(path)
    try:
        document = tomllib.loads(_read_text(path))
    except OSError as error:
        raise DefinitionError(f"{where}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, or nested beyond Python's means
        raise DefinitionError(f"{where}: not a TOML file: {error}") from error
    checks.check_storable(document, where)
    for text in sets:
        apply_set(document, text)
    document["name"] = document.get("name", path.stem) if name is None else name
    found = parse_document(document, where)
    _check_models(found, where)
    return found


def annotated_source(study: str, sets: Iterable[str], name: str | None = None) -> str:
    """Give a study file's text as it is kept with the study: what was given by hand stands on top."""
    flags = [*([] if name is None else [f"--name {name}"]), *(f"--set {text}" for text in sets)]
    return "".join(f"# {' '.join(flag.splitlines())}\n" for flag in flags) + _read_text(
        find_study_file(study)
    )


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")  # Windows' Notepad puts a mark in front


def point_from_texts(found: Definition, texts: Iterable[str]) -> Point:
    """Give the setting that KEY=VALUE texts name, checked against its study."""
    where, given = f"study '{found.name}'", {}
    if found.finishes is not None:
        raise DefinitionError(
            f"{where} looks at the test split: 'hpo finish {found.finishes}' alone adds to it, "
            "with a larger --top or --seeds"
        )
    for text in texts:
        key, equals, raw = text.partition("=")
        if not equals or not key.strip():
            raise DefinitionError(f"{quote_value(text)}: want KEY=VALUE, as lr=0.001")
        if key.strip() in given:
            raise DefinitionError(f"{where}: {key.strip()} is given twice; give it once")
        given[key.strip()] = parse_value(raw)
    there = [*found.parameters(), *config.RUN_OPTIONS]
    for option in given:
        if option in found.train and option not in there:
            raise DefinitionError(
                f"{where}: {option} is fixed at {quote_value(found.train[option])}; a setting may name "
                f"{', '.join(there)}"
            )
    checks.check_storable(given, where)
    listed = parse_point(given, found.train, where, "setting")
    extended = found.model_copy(update={"points": (), "enqueued": (listed,)})
    check_point_in_space(extended, listed, where, "setting")
    _check_models(extended, where)
    return listed


def parse_value(text: str) -> Any:
    """Read a value as TOML does, and take for a plain word what TOML does not understand."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text.strip()


# --set


def apply_set(document: dict[str, Any], text: str) -> None:
    """Apply one ``--set KEY=VALUE``; ``train.X`` fixes X everywhere: in [space] and in every point."""
    key, equals, raw = text.partition("=")
    section, *path = key.strip().split(".")
    if not equals or section not in ("train", "space", "search") or not path or not all(path):
        raise DefinitionError(
            f"--set {text}: want KEY=VALUE with a KEY such as train.epochs, space.lr or search.trials"
        )
    value = parse_value(raw)
    checks.check_storable(value, "--set", key.strip())
    table = _table_at(document, (section, *path[:-1]), text)
    table[path[-1]] = value
    if section == "train":
        _fix_option(document, path[0], value)
    elif section == "space":
        _remove_keys(document.get("train"), path[0])


def _table_at(document: dict[str, Any], path: Iterable[str], text: str) -> dict[str, Any]:
    """Give the table at a path, made if need be."""
    table = document
    for key in path:
        inner = table.setdefault(key, {})
        if key in ("sampler", "pruner") and isinstance(inner, str):
            inner = table[key] = {"name": inner}  # sampler = "tpe" is short for that
        if not isinstance(inner, dict):
            raise DefinitionError(
                f"--set {text}: {key} is {quote_value(inner)}, not a table; set that as a whole"
            )
        table = inner
    return table


def _fix_option(document: Mapping[str, Any], option: str, value: Any) -> None:
    """Take an option that is fixed out of [space] and the points, with all that its value rules out."""
    words, points = config.option_table(document["train"]), document.get("points")
    for table in points if isinstance(points, list) else ():
        _remove_keys(
            table, option, *(name for name in words.used_by if _is_unused(name, option, value, words))
        )
    _remove_keys(document.get("space"), option)
    _remove_unreachable(document.get("space"), option, value, words)


def _remove_unreachable(tables: Any, option: str, value: Any, words: OptionTable) -> None:
    """Take out of [space] what is never searched where ``option`` is ``value``, and what hangs on that."""
    given = tables.items() if isinstance(tables, dict) else ()
    for name in [name for name, each in given if _is_never_searched(name, each, option, value, words)]:
        _remove_keys(tables, name)
        _remove_unreachable(tables, name, getattr(Config(), name, None), words)


def _is_never_searched(name: str, given: Any, option: str, value: Any, words: OptionTable) -> bool:
    when = given.get("when") if isinstance(given, dict) else None
    if not isinstance(when, dict) or option not in when:
        return _is_unused(name, option, value, words)
    return value not in (when[option] if isinstance(when[option], list) else [when[option]])


def _is_unused(name: str, option: str, value: Any, words: OptionTable) -> bool:
    other, users = words.used_by.get(name, ("", ()))
    return other == option and value not in users


def _remove_keys(tables: Any, *options: str) -> None:
    for option in options:
        if isinstance(tables, dict):  # if not, parse will say so
            tables.pop(option, None)


# From a document to a definition


def parse_document(document: Mapping[str, Any], where: str) -> Definition:
    """Check a study document and give its definition; ``where`` names it in errors."""
    checks.check_keys(document, ("name", "train", "space", "search", "points"), where, "")
    fixed, searched, search = (
        checks.require_table(document.get(key, {}), where, key) for key in ("train", "space", "search")
    )
    words = config.option_table(fixed)
    train = words.config_class.model_validate(
        checks.validate_options(fixed, where, "train", words)
    ).model_dump()
    parameters = space_table.parse_space(searched, train, where, words)
    for parameter in parameters:
        if parameter.name in fixed:
            raise DefinitionError(
                f"{where}: {parameter.name}: both fixed in [train] and searched in [space]; keep one"
            )
    found = Definition(
        name=_check_name(document.get("name"), where),
        train=train,
        space=parameters,
        search=checks.validate_record(definition.Search, _expand_names(search), where, "search"),
        points=tuple(_parse_points(document.get("points", []), train, where)),
    )
    if not found.searches and not found.points:
        found = found.model_copy(update={"points": tuple(_grid_points(found, where))})
    _check_whole(found, where)
    return found


def _check_name(given: Any, where: str) -> str:
    if (
        not isinstance(given, str)
        or not 1 <= len(given) <= 100
        or not given.isprintable()
        or given != given.strip()
        or given.startswith("-")
        or "/" in given
    ):
        raise DefinitionError(
            f"{where}: name: want 1 to 100 printable characters, without '/', a space at an end or a '-' "
            f"in front, found {quote_value(given)}"
        )
    return given


def _expand_names(search: Mapping[str, Any]) -> dict[str, Any]:
    """Give ``sampler = "tpe"`` as ``sampler = { name = "tpe" }``, and a pruner likewise."""
    return {
        key: {"name": value} if key in ("sampler", "pruner") and isinstance(value, str) else value
        for key, value in search.items()
    }


def _parse_points(listed: Any, fixed: Mapping[str, Any], where: str) -> Iterator[Point]:
    if not isinstance(listed, list):
        raise DefinitionError(f"{where}: points: want tables under [[points]], found {quote_value(listed)}")
    for index, given in enumerate(listed, 1):
        key = f"points[{index}]"
        yield parse_point(checks.require_table(given, where, key), fixed, where, key)


def parse_point(given: Mapping[str, Any], fixed: Mapping[str, Any], where: str, key: str) -> Point:
    """Check one listed setting; ``fixed`` is what it falls back to, ``key`` names it in errors."""
    words = config.option_table(fixed)
    for option in words.study_wide:
        if option in given:
            raise DefinitionError(
                f"{where}: {key}.{option}: points that differ in it cannot be compared; fix it in [train]"
            )
    checks.check_keys(given, words.searchable and (*words.searchable, "site"), where, key)
    site = given.get("site")
    if site is not None and not isinstance(site, str):
        raise DefinitionError(f"{where}: {key}.site: want a text, found {quote_value(site)}")
    setting = checks.validate_options({k: v for k, v in given.items() if k != "site"}, where, key, words)
    whole = {**fixed, **setting}
    for option, (other, users) in words.used_by.items():
        if option in setting and whole[other] not in users:
            raise DefinitionError(
                f"{where}: {key}.{option}: {checks.unused_option_message(option, whole[other])}"
            )
    return Point(setting=setting, site=site)


def _grid_points(found: Definition, where: str) -> Iterator[Point]:
    """Give a point for every combination of the lists in [space], which sampler "grid" alone asks for."""
    for parameter in found.space:
        if isinstance(parameter.values, space.Range):
            raise DefinitionError(
                f"{where}: space.{parameter.name}: sampler 'grid' wants lists or [[points]], found a range"
            )
    try:
        settings = space.combinations(found.space, found.train)
    except OverflowError as error:
        raise DefinitionError(f"{where}: space: sampler 'grid' would run {error}; shorten lists") from error
    for setting in settings:
        if setting:
            yield Point(setting=setting)


def _check_whole(found: Definition, where: str) -> None:
    """Check what no part of a definition shows alone."""
    if found.setting_count == 0:
        raise DefinitionError(
            f"{where}: nothing to run: search.trials is 0, or the sampler is 'grid', and there are no "
            "[[points]]; list some, or name what to search"
        )
    if found.searches and found.search.trials and not found.space:
        raise DefinitionError(
            f"{where}: search.trials is {found.search.trials} but [space] is empty; "
            'name what to search, or run [[points]] alone with search.sampler = "grid"'
        )
    if found.search.replicates > 1 and any(parameter.name == "seed" for parameter in found.space):
        raise DefinitionError(f"{where}: space.seed: {SEED_WITH_REPLICATES}")
    if found.search.start_from and found.search.sampler.name not in LEARNING_SAMPLERS:
        raise DefinitionError(
            f"{where}: search.start_from: sampler {quote_value(found.search.sampler.name)} learns from no trial; "
            f"leave it out, or take {' or '.join(LEARNING_SAMPLERS)}"
        )
    for index, listed in enumerate(found.points, 1):
        check_point_in_space(found, listed, where, f"points[{index}]")


def check_point_in_space(found: Definition, listed: Point, where: str, key: str) -> None:
    """Refuse a listed setting that the study cannot run, as one outside of what it searches."""
    if found.search.replicates > 1 and "seed" in listed.setting:
        raise DefinitionError(f"{where}: {key}.seed: {SEED_WITH_REPLICATES}")
    setting = found.complete_hyperparameters(listed)
    for parameter in found.space if found.searches else ():
        value = setting.get(parameter.name)
        if parameter.name not in setting and space.is_active(parameter, found.train | listed.setting):
            raise DefinitionError(
                f"{where}: {key}: {parameter.name} is left out, is searched and has no default; name it"
            )
        if parameter.name in setting and not parameter.contains(value):
            how = "found" if parameter.name in listed.setting else "left out, it falls back to"
            raise DefinitionError(
                f"{where}: {key}.{parameter.name}: {how} {quote_value(value)}, outside of what "
                f"space.{parameter.name} searches ({parameter.values}); name one inside"
            )


def _check_models(found: Definition, where: str) -> None:
    """Check every model that the study can train against torchvision, once for each kind of setting.

    Of a person's own objective, check that it is there.
    """
    if found.option_table is config.CUSTOM_OPTIONS:
        custom.import_objective(str(found.train["objective"]))
    try:
        for section, settings in found.model_configs():
            checks.check_trainable(settings, where, section)
    except OverflowError as error:
        raise DefinitionError(f"{where}: space: {error} decide what a model is; shorten lists") from error
