"""Random faults in what people write: study files, ``--set`` texts and folders of images.

    python -m tests.mutated_input [--cases N] [--seed N]

reads N mutated inputs and prints what broke: an exception other than an ``HpoError``, a message of more
than one line or too long to read, or a study file about which the loader and the JSON Schema disagree
although a schema could express the rule. An input that takes more than ``SLOW_SECONDS`` of processor time
ends it.
"""

import argparse
import contextlib
import functools
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from hpo.errors import MESSAGE_LENGTH, HpoError
from hpo.study import file
from hpo.training import datasets, drawn_images
from hpo.training.config import Config
from hpo.training.used_files import ContentHashes
from tests.support import mutated_documents
from tests.support.case_limit import case_limit

SLOW_SECONDS = 10
CUSTOM_OBJECTIVE = "def climb(config, state):\n    yield 0.5, None\n"

# Texts that stand for a value, or break one.
TEXTS = (
    *("nan", "-nan", "inf", "-inf", "1e308", "-1e308", "1e400", "5e-324", "-0.0", "0", "1_000", "0x10"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "9" * 400, "1" * 5000),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "0001-01-01T00:00:00+23:00"),
    *("9999-12-31T23:59:59-23:00", "9999-12-31T23:59:59.999999Z", "2030-01-31 18:00:00", "true", "false"),
    *('""', '"\\u0000"', '"\\uD800"', '"größe"', '"日本語"', '"\U0001f600"', '"a\\nb"', '"""a\nb"""', "''"),
    *("[]", "[[]]", "{}", "[1, 2.0, 'x', true]", "[nan, nan]", "{ low = 1 }", "{ low = inf, high = nan }"),
    *("{ low = 2, high = 1 }", "{ low = 1, high = 2, step = 0 }", "{ low = 0, high = 1, log = true }"),
    *("{ low = -1e308, high = 1e308 }", "{ low = 0.1, high = 1e308, step = 1e-300 }", "{ choices = [] }"),
    *("{ low = -9223372036854775808, high = 9223372036854775807 }", "{ choices = [{}] }", "{ when = {} }"),
    *("{ low = 0, high = 1e300, step = 1 }", "{ name = 'grid' }", "[{ a = 1 }]", "~nosuchuser/x", "~", "."),
    *("folder:~nosuchuser/x", f"folder:{'x' * 300}", "folder:/root", "folder:", "folder:\\u0000", "a:b"),
    *("own:climb", "own:missing", "own:", ":climb", "os:system", "__main__:f", "a.b.c:d", "own.x:climb"),
    *("resnet18", "ResNet18", "vit_b_16", "imagenet", "none", "digits", "sgd", "adam", "grid", "tpe", "gp"),
    *("qmc", "asha", "median", "step", "3\ny = 4", "3 # x", "3\n[search]\ntrials = 1", "=", "==", " "),
)
SET_KEYS = (
    *("train", "space", "search", "points", "name", "train.", ".train", "train..lr", "train.lr.x", "x.y"),
    *("search.sampler", "search.sampler.name", "search.pruner.name", "search.pruner.min_epochs.x"),
    *("search.trials", "search.deadline", "search.start_from", "search.target", "search.replicates"),
    *("space.lr", "space.lr.low", "space.lr.when.optimizer", "space.seed", "space.epochs", "space.größe"),
    *("train.lr", "train.epochs", "train.seed", "train.dataset", "train.model", "train.weights", "train.x"),
    *("train.optimizer", "train.schedule", "train.dropout", "train.image_size", "train.batch_size"),
    *("train.objective", "train.__class__", "train.copy", "train.\x00", "search.sampler.seed", "space.a b"),
)


@functools.cache
def study_texts() -> dict[str, str]:
    """Return the study files to mutate, by name: those that ship, and two with everything in them."""
    return {
        **{path.stem: path.read_text() for path in file.shipped_studies().values()},
        "custom": mutated_documents.CUSTOM.replace("package.module:climb", "own:climb"),
        "rich": mutated_documents.RICH,
    }


def mutated_text(rng: random.Random) -> bytes:
    """Return a study file with faults in its text: lines, characters or bytes that do not belong there."""
    lines = rng.choice(list(study_texts().values())).splitlines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        _mutate_lines(lines, rng)
    text = "\n".join(lines).encode(errors="surrogatepass")
    how = rng.randrange(12)
    at = rng.randrange(len(text) + 1)
    if how == 0:
        return (
            text[:at] + rng.choice((b"\xff\xfe", b"\x00", b"\xe9", b"\xf0\x9f", b"\r", b"\x1b")) + text[at:]
        )
    if how == 1:
        return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xef\xbb\xbf\xef\xbb\xbf")) + text
    if how == 2:
        return text[:at]
    return text


def _mutate_lines(lines: list[str], rng: random.Random) -> None:
    if not lines:
        return
    at = rng.randrange(len(lines))
    key, equals, value = lines[at].partition("=")
    how = rng.randrange(9)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    elif how == 2:
        rng.shuffle(lines)
    elif how == 3:
        other = rng.choice(lines).partition("=")[0]
        lines[at] = f"{other}={value}"
    elif how == 4:
        lines.insert(at, f'"{rng.choice(TEXTS)}" = 1')
    elif how == 5 and rng.random() < 0.1:
        depth = rng.choice((50, 500, 5000))
        lines[at] = f"{key}= {'[' * depth}1{']' * depth}"
    elif how == 5:
        lines[at] = (
            f'{key}= "{"x" * rng.choice((100, 10_000, 1_000_000) if rng.random() < 0.1 else (300,))}"'
        )
    else:
        lines[at] = f"{key}= {rng.choice(TEXTS)}" if equals else f"[{rng.choice(TEXTS)}]"


def mutated_sets(rng: random.Random) -> list[str]:
    """Return ``--set`` texts of which some are wrong."""
    return [_mutated_set(rng) for _ in range(rng.choice((1, 1, 2)))]


def _mutated_set(rng: random.Random) -> str:
    known = [f"train.{name}" for name in Config.model_fields] + [
        f"space.{name}" for name in Config.model_fields
    ]
    key = rng.choice(SET_KEYS) if rng.random() < 0.6 else rng.choice(known)
    value = rng.choice(TEXTS) if rng.random() < 0.9 else "y" * 100_000
    return key + rng.choice(("=", "=", "=", "=", " = ", "", "==")) + value


def check_study_file(rng: random.Random, place: Path) -> None:
    """Load a study file with random faults in its text."""
    (place / "mutated.toml").write_bytes(mutated_text(rng))
    file.load_study_file(place / "mutated.toml")


def check_sets(rng: random.Random, place: Path) -> None:
    """Load a good study file with random ``--set`` texts."""
    (place / "good.toml").write_text(rng.choice(list(study_texts().values())))
    file.load_study_file(place / "good.toml", mutated_sets(rng))


def check_agreement(rng: random.Random, place: Path) -> None:
    """Compare what the loader and the JSON Schema say of a document with random changes."""
    document = tomllib.loads(rng.choice(list(study_texts().values())))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if document:
            mutated_documents.mutate(document, rng)
    before = repr(document)
    problem = mutated_documents.disagreement(document)
    assert problem is None, problem
    assert repr(document) == before, "the loader changed the document"


NAMES = (
    *("cat", "dog", "train", "valid", "test", "Train", "TEST", "val", "fold1", ".hidden", "größe", "日本"),
    *("x" * 200, "-x", "'q\"", "new\nline", "\udce9", "~", "*", "a.png", "nan", "%s", "{}", "\x1b[31m"),
)


def make_folder(rng: random.Random, place: Path) -> Path:
    """Make a small folder of images with random faults, and return its path."""
    root = place / "images"
    shutil.rmtree(root, ignore_errors=True)
    base = root / "train" if rng.random() < 0.3 else root
    for name in rng.sample(NAMES, rng.randrange(4)) + ["cat", "dog"][: rng.choice((0, 1, 2, 2, 2))]:
        folder = base / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(rng.choice((0, 1, 3, 4, 6))):
            _make_file(rng, folder, index)
    root.mkdir(parents=True, exist_ok=True)
    if rng.random() < 0.2:
        _make_file(rng, root, 99)
    return root


def _make_file(rng: random.Random, folder: Path, index: int) -> None:
    path = (
        folder
        / f"{index}{rng.choice(('.png', '.png', '.png', '.PNG', '.jpg', '.tif', '.gif', '.txt', ''))}"
    )
    if os.path.lexists(path):
        return
    how = rng.randrange(14)
    if how == 0:
        path.write_bytes(rng.choice((b"", b"\x89PNG", b"%!PS-Adobe", b"\xff\xd8\xff", rng.randbytes(200))))
    elif how == 1:
        path.symlink_to(rng.choice(("missing", ".", "..", str(folder), "/etc/hostname", path.name)))
    elif how == 2:
        path.mkdir()
    elif how == 3:
        os.mkfifo(path)
    else:
        mode = rng.choice(("RGB", "RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16", "F", "I"))
        size = rng.choice(((8, 8), (12, 8), (1, 1), (1, 300), (300, 1)))
        with contextlib.suppress(OSError, KeyError, ValueError):  # not every format can hold every mode
            Image.new(mode, size).save(path, rng.choice(("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")))
    if how == 4 and path.is_file():
        path.write_bytes(path.read_bytes()[: rng.randrange(120)])
    if how == 5:
        path.chmod(0) if path.exists() else None


def make_list(rng: random.Random, place: Path) -> Path:
    """Make a list of the images of such a folder, with random faults, and return its path."""
    root = make_folder(rng, place)
    rows = [["path", "label", "split"]]
    for image in sorted(path for path in root.rglob("*") if not path.is_dir()):
        split = rng.choice(("train", "train", "train", "valid", "TEST"))
        rows.append([str(image.relative_to(place)), image.parent.name, split])
    width = rng.choice((2, 2, 3))
    text = "".join(",".join(f'"{cell}"' for cell in row[:width]) + "\n" for row in rows)
    content = bytearray(text.encode(errors="surrogateescape"))
    for _ in range(rng.choice((0, 0, 1, 2, 9))):
        at = rng.randrange(len(content) + 1)
        content[at : at + rng.choice((0, 1, 30))] = rng.choice(
            (b"", b",", b'"', b"\n", b"\r", b"\0", b"\xff")
        )
    path = place / rng.choice(("pets.csv", "pets.csv", "pets.CSV", "pets.csv", "pets.txt"))
    path.write_bytes(content)
    return path


def check_list(rng: random.Random, place: Path) -> None:
    """List, split and read the images of a list with random faults."""
    _check_images(rng, place, f"list:{make_list(rng, place)}")


def check_folder(rng: random.Random, place: Path) -> None:
    """List, split and read a folder of images with random faults."""
    _check_images(rng, place, f"folder:{make_folder(rng, place)}")


def _check_images(rng: random.Random, place: Path, dataset: str) -> None:
    settings = Config(
        dataset=dataset,
        image_size=8,
        corrupt=rng.choice(("refuse", "skip")),
        resize=rng.choice(("crop", "pad", "squash")),
        transparency=rng.choice(("white", "black", "drop")),
        max_pixels=rng.choice((64, 200, 179_000_000)),
        selection=rng.choice(("valid", "test")),
        limit=rng.choice((None, None, 2, 3)),
    )
    drawn_images.list_used_files(settings, Path(), ContentHashes())
    scan = drawn_images.draw_images(settings, place).scan(ContentHashes())
    json.dumps(scan.document())
    list(scan.notes())
    datasets.load_dataset(settings, place)


CHECKS: dict[str, Callable[[random.Random, Path], None]] = {
    "study file": check_study_file,
    "--set": check_sets,
    "schema": check_agreement,
    "folder": check_folder,
    "list": check_list,
}


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """Work in an empty folder, with a custom objective in it; put everything back afterwards."""
    before, path = os.getcwd(), [*sys.path]
    with tempfile.TemporaryDirectory(prefix="hpo-mutated-") as folder:
        (Path(folder) / "own.py").write_text(CUSTOM_OBJECTIVE)
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)
            sys.path[:] = path
            sys.modules.pop("own", None)


def problem_of(kind: str, seed: str, place: Path) -> str | None:
    """Run one case, and return what broke; None if the input was taken, or refused in one line."""
    try:
        CHECKS[kind](random.Random(seed), place)
    except HpoError as error:
        text = str(error).replace(str(place), "")
        return (
            None if len(text.splitlines()) <= 1 and len(text) <= MESSAGE_LENGTH else f"says {text[:300]!r}"
        )
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:600]}"
    return None


def run_cases(cases: Mapping[str, int], seed: int, *, seconds: int = 0) -> tuple[list[str], int]:
    """Run mutated inputs of each kind.

    Args:
        cases: How many, by kind.
        seed: The seed of all cases.
        seconds: Processor time after which a case ends this process with a traceback; 0: any time.

    Returns:
        What broke, with the kind and the seed of the case, and how many inputs ran.
    """
    broken, ran = [], 0
    with _place() as place, case_limit(seconds) as begin_case:
        for kind, count in cases.items():
            for index in range(count):
                begin_case()
                name = f"{seed}/{kind}/{index}"
                if problem := problem_of(kind, name, place):
                    broken.append(f"{name}: {problem}")
                ran += 1
    return broken, ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--only", choices=CHECKS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    shares = {"study file": 0.35, "--set": 0.25, "schema": 0.25, "folder": 0.1, "list": 0.05}
    cases = {kind: round(options.cases * share) for kind, share in shares.items()}
    print(f"seed {options.seed}", flush=True)
    chosen = {kind: count for kind, count in cases.items() if options.only in (None, kind)}
    broken, ran = run_cases(chosen, options.seed, seconds=SLOW_SECONDS)
    print("\n".join(broken))
    print(f"{ran} mutated inputs, {len(broken)} of them broke something")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
