"""Reading a study file: TOML, ``--set`` texts, checks, and out comes a definition."""

import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hpo import check, config, definition, space
from hpo.config import Config
from hpo.definition import Definition, Point
from hpo.errors import DefinitionError, suggestion

SHIPPED = Path(__file__).parent / "studies"  # inside the wheel; in a checkout, ../studies


def shipped() -> dict[str, Path]:
    """Give the study files that come with hpo, by name."""
    folder = SHIPPED if SHIPPED.is_dir() else Path(__file__).parent.parent / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find(study: str) -> Path:
    """Give the file that STUDY names: a path, or the name of one that ships."""
    path = Path(study).expanduser()
    if path.is_file():
        return path
    names = shipped()
    if study in names:
        return names[study]
    raise DefinitionError(
        f"{study}: no such study file, and none of that name ships with hpo"
        f"{suggestion(study, names)}; those that ship: {', '.join(names)}"
    )


def load(path: Path, sets: Iterable[str] = (), name: str | None = None) -> Definition:
    """Read and check a study file, after applying ``--set KEY=VALUE`` texts and ``--name`` to it.

    Checks models against torchvision too, so it imports torch. Raises DefinitionError, in one line,
    for whatever is wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DefinitionError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DefinitionError(f"{path}: not a TOML file: {error}") from error
    for text in sets:
        override(document, text, str(path))
    document["name"] = name if name is not None else document.get("name", path.stem)
    found = parse(document, str(path))
    check.models(possible(found), str(path))
    return found


def source(study: str, sets: Iterable[str]) -> str:
    """Give a study file's text as it is kept with the study: what was set by hand stands on top."""
    path = find(study)
    return "".join(f"# --set {text}\n" for text in sets) + path.read_text(encoding="utf-8")


def by_hand(found: Definition, texts: Iterable[str]) -> Point:
    """Give the setting that KEY=VALUE texts name, checked against its study."""
    where, given = f"study '{found.name}'", {}
    for text in texts:
        key, equals, raw = text.partition("=")
        if not equals:
            raise DefinitionError(f"{text}: want KEY=VALUE, as lr=0.001")
        given[key.strip()] = value_of(raw)
    there = [*found.parameters(), *config.RUN_OPTIONS]
    for option in given:
        if option in found.train and option not in there:
            raise DefinitionError(
                f"{where}: {option} is fixed at {found.train[option]!r}; a setting may name "
                f"{', '.join(there)}"
            )
    listed = point(given, found.train, where, "setting")
    extended = found.model_copy(update={"enqueued": (listed,)})
    contained(extended, listed, where, "setting")
    check.models(possible(extended), where)
    return listed


def override(document: dict[str, Any], text: str, where: str) -> None:
    """Apply one ``--set KEY=VALUE``; ``train.X`` fixes X everywhere: in [space] and in every point."""
    key, equals, raw = text.partition("=")
    section, dot, rest = key.strip().partition(".")
    if not equals or not dot or section not in ("train", "space", "search"):
        raise DefinitionError(
            f"--set {text}: want KEY=VALUE with a KEY such as train.epochs, space.lr or search.trials"
        )
    *parents, last = rest.split(".")
    table = document.setdefault(section, {})
    for parent in parents:
        check.table(table, where, section)
        if not isinstance(table.get(parent, {}), Mapping):
            table[parent] = {"name": table[parent]}  # sampler = "tpe" is short for { name = "tpe" }
        table = table.setdefault(parent, {})
    table[last] = value_of(raw)
    if section == "train":
        for other in (document.get("space", {}), *document.get("points", [])):
            other.pop(last, None)
    elif section == "space":
        document.get("train", {}).pop(rest.split(".")[0], None)


def value_of(text: str) -> Any:
    """Read a value as TOML does, and take for a plain word what TOML does not understand."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def parse(document: Mapping[str, Any], where: str) -> Definition:
    """Check a study document and give its definition; ``where`` names it in errors."""
    check.known(document, ("name", "train", "space", "search", "points"), where, "")
    name = document.get("name")
    if not isinstance(name, str) or not name.strip() or len(name) > 100 or "/" in name:
        raise DefinitionError(f"{where}: name: want up to 100 characters without '/', found {name!r}")
    fixed, searched, search = (
        check.table(document.get(key, {}), where, key) for key in ("train", "space", "search")
    )
    defaults = check.options(fixed, where, "train").model_dump()
    for option in searched.keys() & fixed.keys():
        raise DefinitionError(f"{where}: {option}: both fixed in [train] and searched in [space]; keep one")
    found = Definition(
        name=name,
        train={option: value for option, value in defaults.items() if option not in searched},
        space=check.parameters(searched, fixed, where),
        search=check.record(definition.Search, _spelled_out(search), where, "search"),
        points=tuple(_points(document.get("points", []), fixed, where)),
    )
    if not found.searches and not found.points:
        found = found.model_copy(update={"points": tuple(_combinations(found, where))})
    _check_whole(found, where)
    return found


def _spelled_out(search: Mapping[str, Any]) -> dict[str, Any]:
    """Give ``sampler = "tpe"`` as ``sampler = { name = "tpe" }``, and a pruner likewise."""
    return {
        key: {"name": value} if key in ("sampler", "pruner") and isinstance(value, str) else value
        for key, value in search.items()
    }


def _points(listed: Any, fixed: Mapping[str, Any], where: str) -> Iterator[Point]:
    if not isinstance(listed, list):
        raise DefinitionError(f"{where}: points: want tables under [[points]], found {listed!r}")
    for index, given in enumerate(listed, 1):
        key = f"points[{index}]"
        yield point(check.table(given, where, key), fixed, where, key)


def point(given: Mapping[str, Any], fixed: Mapping[str, Any], where: str, key: str) -> Point:
    """Check one listed setting; ``fixed`` is what it falls back to, ``key`` names it in errors."""
    site = given.get("site")
    if site is not None and not isinstance(site, str):
        raise DefinitionError(f"{where}: {key}.site: want a text, found {site!r}")
    for option in config.STUDY_WIDE:
        if option in given:
            raise DefinitionError(
                f"{where}: {key}.{option}: decides what accuracy means; fix it in [train]"
            )
    check.known(given, (*config.SEARCHABLE, "site"), where, key)
    setting = {option: value for option, value in given.items() if option != "site"}
    check.options(setting, where, key)
    whole = Config.model_validate({**fixed, **setting}).model_dump()
    for option, (other, users) in config.USED_BY.items():
        if option in setting and whole[other] not in users:
            raise DefinitionError(
                f"{where}: {key}.{option}: {other} '{whole[other]}' has no {option}; "
                f"it is for {', '.join(users)}; leave it out"
            )
    return Point(setting=setting, site=site)


def _combinations(found: Definition, where: str) -> Iterator[Point]:
    """Give a point for every combination of the lists in [space], which sampler "grid" alone asks for."""
    lists: dict[str, tuple[space.Value, ...]] = {}
    for parameter in found.space:
        if isinstance(parameter.values, space.Range):
            raise DefinitionError(
                f"{where}: space.{parameter.name}: sampler 'grid' wants lists or [[points]], found a range"
            )
        lists[parameter.name] = parameter.values.choices
    seen = []
    for values in itertools.product(*lists.values()):
        setting = Config().model_dump() | found.train | dict(zip(lists, values, strict=True))
        used = {p.name: setting[p.name] for p in found.space if space.is_active(p, setting)}
        if used and used not in seen:
            seen.append(used)
            yield Point(setting=used)


def _check_whole(found: Definition, where: str) -> None:
    """Check what no part of a definition shows alone."""
    if found.budget == 0:
        raise DefinitionError(f"{where}: nothing to run: no searched trials and no [[points]]")
    if found.searches and found.search.trials and not found.space:
        raise DefinitionError(
            f"{where}: search.trials is {found.search.trials} but [space] is empty; "
            'name what to search, or run [[points]] alone with search.sampler = "grid"'
        )
    for index, listed in enumerate(found.points, 1):
        contained(found, listed, where, f"points[{index}]")


def contained(found: Definition, listed: Point, where: str, key: str) -> None:
    """Refuse a listed setting that lies outside of what the study searches."""
    setting = found.complete(listed)
    for parameter in found.space if found.searches else ():
        value = setting.get(parameter.name)
        if parameter.name in setting and not parameter.contains(value):
            how = "found" if parameter.name in listed.setting else "left out, and the default is"
            raise DefinitionError(
                f"{where}: {key}.{parameter.name}: {how} {value!r}, outside of what "
                f"space.{parameter.name} searches ({parameter.values})"
            )


def possible(found: Definition) -> dict[str, tuple[Any, ...]]:
    """Give the values that a trial can have, for each option that models are checked against.

    For dropout it gives the models that are told one, since most models have none.
    """
    values: dict[str, tuple[Any, ...]] = {}
    searched = {p.name: p for p in found.space} if found.searches else {}
    settings = [found.train | found.complete(listed) for listed in found.listed]
    for option in ("model", "image_size", "weights"):
        spread = _extremes(searched[option].values) if option in searched else ()
        fixed = [found.train[option]] if option in found.train and found.searches else []
        values[option] = tuple(dict.fromkeys([*spread, *(s[option] for s in settings), *fixed]))
    told = [s["model"] for s in settings if s.get("dropout") is not None]
    if "dropout" in searched:
        told += searched["dropout"].condition().get("model", values["model"])
    elif found.searches and found.train.get("dropout") is not None:
        told += values["model"]
    return values | {"dropout": tuple(told)}


def _extremes(spread: space.Choices | space.Range) -> tuple[space.Value, ...]:
    return spread.choices if isinstance(spread, space.Choices) else (spread.low, spread.high)
