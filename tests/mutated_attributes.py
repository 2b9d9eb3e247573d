"""Random changes of what a store says about studies and trials, and of the files of exported models.

    python -m tests.mutated_attributes [--cases N] [--seed N] [--store sqlite|postgresql|s3]

changes a few attributes, values, parameters or leases of a finished store in each of N cases. Then it runs
a command, or asks the dashboard for each of its routes. It prints what broke:

* an exception, a warning, a traceback, or an exit code that the documents do not name;
* a route that answers 500;
* a file that was changed, made or removed outside the folder of the command's own study;
* a file outside the artifacts whose content is in an output, an answer, a report or an exported model.

``s3`` keeps the artifacts in an object store of fsspec's, and the rows in SQLite.
"""

import argparse
import contextlib
import io
import json
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hpo.dashboard import gate, server
from tests.support import hostile_store, postgres
from tests.support.case_limit import case_limit
from tests.support.databases import cache_migrations, closed_engines
from tests.support.fast_process import fast_process, log
from tests.support.hostile_store import HostileStore
from tests.support.hostile_values import Mutator
from tests.support.workplace import Workplace, workplace_in
from tests.support.wsgi import HOST, TOKEN, ask, routes

SLOW_SECONDS = 30
RUNNABLE = ("small", "small", "grid")  # by a worker in no time
PLOTS = ("contour", "slice", "parallel_coordinate", "rank", "edf", "timeline", "x")
STUDIES = ("small", "small", "small", "grid", "small-finish", "vision", "plain")

# Commands by how often each runs; {} is the name of a study.
COMMANDS = {
    "status {}": 4,
    "status {} --json": 3,
    "best {} -n 3": 4,
    "best {} --json": 2,
    "trials {}": 4,
    "trials {} --json": 3,
    "trials {} --csv": 3,
    "trials {} --trial 0": 4,
    "events {}": 3,
    "events {} --trial 0": 2,
    "events {} --json": 2,
    "studies": 3,
    "studies --json": 2,
    "importance {} --json": 1,
    "importance {} --evaluator fanova": 1,
    "report {} -o out/report.html --csv out/csv": 2,
    "export {} --to out/model": 4,
    "export {} --trial 0 --to out/model": 4,
    "simulate {} --repeats 2": 1,
    "finish {} --top 2 --seeds 2": 4,
    "worker {}": 6,
    "run {}.toml": 2,
    "delete {} --yes": 6,
    "pause {}": 2,
    "resume {}": 2,
    "stop {}": 2,
    "stop {} --trial 3": 2,  # waits at a rung
    "stop {} --trial 9": 1,  # runs
    "stop {} --trial 10": 1,  # waits
    "retry {} --failed": 3,
    "retry {} --trial 1": 2,
    "enqueue {} speed=2 rate=0.3 kind=b": 2,
    "plan {}.toml --devices cpu:1": 1,
    "doctor": 2,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A store with random changes, and what they are."""

    store: HostileStore
    workplace: Workplace
    rng: random.Random
    mutator: Mutator
    changes: list[str]

    def hpo(self, *words: str) -> str | None:
        """Run a command, and return what broke; None if it did its work or refused in one line."""
        done = self.workplace.here(
            *words, code=None, HPO_STORE=self.store.url, HPO_ARTIFACTS=self.store.root
        )
        allowed = (0, 1, 78, 143) if words[0] == "worker" else (0, 1)  # 143: it was told to stop
        if done.code not in allowed:
            return f"exit code {done.code}: {done.err[-300:]}"
        if "Traceback" in done.out + done.err:
            return f"a traceback: {(done.out + done.err)[-1500:]}"
        if done.code not in (0, 143) and not (done.err.strip() or done.out.strip()):
            return f"exit code {done.code} without a word"
        if self.store.secret in done.out + done.err:
            return "the secret is printed"
        return None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a case did, what broke, and which files it may have changed: regular expressions."""

    action: str
    problem: str | None
    may_change: list[str]


def check_command(case: Case) -> Outcome:
    """Run a command."""
    (command,) = case.rng.choices([*COMMANDS], [*COMMANDS.values()])
    verb = command.partition(" ")[0]
    name = case.rng.choice(RUNNABLE if verb in ("worker", "run", "plan") else STUDIES)
    writes = verb in ("worker", "run", "finish", "delete")
    words = command.format(name).split()
    return Outcome(
        action=" ".join(words),
        problem=case.hpo(*words),
        may_change=case.store.files_of(name, f"{name}-finish") if writes else [],
    )


def check_dashboard(case: Case) -> Outcome:
    """Ask the dashboard for some of its routes, for changes too."""
    read_only = case.rng.random() < 0.5
    settings = server.Settings(
        store=case.store.url,
        artifacts=case.store.root,
        host="127.0.0.1",
        port=0,
        behind_tls=None,
        read_only=read_only,
    )
    guarded = gate.Gate(server.LazyApp(settings), token=TOKEN, origin=f"http://{HOST}", read_only=read_only)
    asked, may_change = [], []
    with closed_engines(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, about values that it cannot plot or rank
        for method, path, body in _requests(case, guarded):
            asked.append(f"{method} {path}")
            errors: Any = io.StringIO()
            answer = ask(
                guarded, method, path, body, HTTP_ACCEPT_ENCODING="gzip", **{"wsgi.errors": errors}
            )
            log.note(errors.getvalue())
            is_refusal = answer.status == 503 and answer.json()["reason"]
            problem = f"{answer.status}" if answer.status >= 500 and not is_refusal else None
            if case.store.secret.encode() in answer.body:
                problem = "the secret is in the answer"
            may_change += _changed_by(case, method, path)
            if problem or (method != "GET" and answer.status == 500):
                return Outcome(action=asked[-1], problem=problem, may_change=may_change)
    return Outcome(action=", ".join(asked), problem=None, may_change=may_change)


def _requests(case: Case, app: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield requests: a study with every file that it lists, and some other routes."""
    rng, names = case.rng, case.store.names
    study, trial = rng.choice((1, 1, 1, *range(2, 7))), rng.randrange(1, 14)
    yield "GET", "/api/studies", None
    yield "GET", f"/api/studies/{study}", None
    detail = ask(app, "GET", f"/api/studies/{study}")
    shown = detail.json()["trials"] if detail.status == 200 else []
    files = [f"{each['trial_id']}/{file['artifact_id']}" for each in shown for file in each["artifacts"]]
    for file in rng.sample(files, min(len(files), 6)):
        yield "GET", f"/artifacts/{study}/{file}", None
    given = rng.choice((names["attached"], names["foreign"], "0a-1b"))
    found = routes(study=study, trial=trial, file=given, plot=rng.choice(PLOTS))
    for method, path in rng.sample(found, 6):
        body = None if method == "GET" else {}
        if path.endswith("/note"):
            body = {"version": rng.choice((1, 2)), "body": "mine"}
        elif method == "POST" and path.startswith("/api/artifacts"):
            body = {"file": "data:text/plain;base64,eA==", "filename": "../x"}
        yield method, path, body


def _changed_by(case: Case, method: str, path: str) -> list[str]:
    """Return regular expressions of the files that a request may change."""
    store, study = case.store, re.match("/api/[a-z]+/([0-9])", path)
    if method == "GET" or study is None:
        return []
    name = store.study_names[int(study[1]) - 1] if int(study[1]) <= len(store.study_names) else "none"
    attached = {"small": store.names["attached"], "other": store.names["foreign"]}.get(name, "(?!)")
    if method == "POST":
        taken = f"(?!{store.names['attached']}|{store.names['foreign']})"
        return [f"added/{taken}[0-9a-f-]+"]
    return [f"added/{attached}", *(store.files_of(name) if path == f"/api/studies/{study[1]}" else [])]


def check_exported(case: Case) -> Outcome:
    """Predict with an exported model of which a file was changed."""
    folder = case.store.place / "out/model"
    shutil.copytree(case.store.place / hostile_store.MODEL, folder)
    file = folder / case.rng.choice(
        ("config.json", "config.json", "config.json", "labels.txt", "model.safetensors")
    )
    case.changes.append(f"{file.name}: {_change_file(case, file)}")
    problem = case.hpo(
        "predict", "out/model", "image.png", *case.rng.choice((("--json",), ("--top", "20"), ()))
    )
    return Outcome(action="predict", problem=problem, may_change=[])


def check_settings(case: Case) -> Outcome:
    """Export a model whose settings.json or weights were changed."""
    artifacts, vision = case.store.artifacts, case.store.folders["vision"]
    name = case.rng.choice(("settings.json", "settings.json", "weights-0001-001.safetensors"))
    name = f"{vision}/0000/{name}"
    file = case.store.place / "out/changed.json"
    file.write_bytes(artifacts.read(name))
    case.changes.append(f"{name}: {_change_file(case, file)}")
    artifacts.write(name, file.read_bytes())
    return Outcome(
        action="export vision",
        problem=case.hpo("export", "vision", "--to", "out/model"),
        may_change=case.store.files_of("vision"),
    )


def _change_file(case: Case, file: Path) -> str:
    """Change a part of a document, or of the bytes of any file, and describe it."""
    rng, content = case.rng, file.read_bytes()
    if content[:1] == b"{" and rng.random() < 0.9:
        text = json.dumps(case.mutator.with_change(json.loads(content)))
        file.write_bytes(text.encode(errors="surrogatepass"))
        return text[:1000]
    start = rng.choice((0, rng.randrange(len(content)), rng.randrange(min(len(content), 200))))
    inserted = rng.choice((b"", b"\xff", b"\n\n", b"[" * 50_000, rng.randbytes(20)))
    file.write_bytes(content[:start] + inserted + content[start + rng.choice((0, 1, 10, len(content))) :])
    return f"bytes from {start} on"


CHECKS: dict[Callable[[Case], Outcome], int] = {
    check_command: 60,
    check_dashboard: 25,
    check_exported: 8,
    check_settings: 5,
}


def _run_case(store: HostileStore, workplace: Workplace, name: str) -> tuple[list[str], str]:
    """Run one case; return what broke, and what was changed and done."""
    rng = random.Random(name)
    store.restore()
    engine = sa.create_engine(store.url)
    with engine.connect() as connection:
        mutator = Mutator(connection, rng, store.names)
        (check,) = rng.choices([*CHECKS], [*CHECKS.values()])
        case = Case(store=store, workplace=workplace, rng=rng, mutator=mutator, changes=[])
        if check in (check_command, check_dashboard):
            for _ in range(rng.choice((1, 1, 2, 3, 6))):
                with contextlib.suppress(
                    sa.exc.SQLAlchemyError, UnicodeError
                ):  # no database holds such a value
                    case.changes.append(mutator.change())
                    connection.commit()
                connection.rollback()
    engine.dispose()
    problems, action, may_change = [], check.__name__, None
    try:
        done = check(case)
        action, may_change = done.action, done.may_change
        problems += [done.problem] * (done.problem is not None)
    except Exception as error:
        problems.append(_describe(error))
    if may_change is not None:
        problems += store.damage(may_change)
    for text in store.tracebacks() if may_change else ():
        log.note(text)
    problems += [f"the secret is in {path}" for path in store.leaked()] + log.errors
    log.errors.clear()
    return problems, "; ".join([*case.changes, action])


def _describe(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f"{Path(each.filename).name}:{each.lineno}" for each in frames if "/hpo/" in each.filename]
    last = frames[-1]
    where = f"{' '.join(ours[-4:])} ... {Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__}: {str(error)[:300]} ({where})"


def run_cases(store: HostileStore, seed: int, cases: Iterable[int], *, seconds: int = 0) -> Iterator[str]:
    """Run cases on a store, and yield what broke, with the name of the case.

    Args:
        store: The store, which is put back before each case.
        seed: The seed of all cases.
        cases: The numbers of the cases to run.
        seconds: Processor time after which a case ends this process with a traceback; 0: any time.
    """
    with fast_process(), case_limit(seconds) as begin_case:
        for number in cases:
            begin_case()
            problems, what = _run_case(store, workplace_in(store.place), f"{seed}/{number}")
            yield from (f"{seed}/{number}: {problem}\n    {what}" for problem in problems)


@contextlib.contextmanager
def open_store(kind: str) -> Iterator[HostileStore]:
    """Make the store to change: on ``sqlite``, ``postgresql`` or, with its artifacts, ``s3``."""
    with tempfile.TemporaryDirectory(prefix="hpo-mutated-") as folder, contextlib.ExitStack() as cleanup:
        place = Path(folder)
        (place / "storage").mkdir()
        url = f"sqlite:///{place}/storage/hpo.db"
        if kind == "postgresql":
            settings = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            url = cleanup.enter_context(
                postgres.database(cleanup.enter_context(postgres.server(**settings)))
            )
        with contextlib.chdir(place), fast_process():
            store = HostileStore(place, url, remote=kind == "s3")
            yield store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--only", type=int, metavar="CASE", help="run this case alone")
    parser.add_argument("--store", choices=("sqlite", "postgresql", "s3"), default="sqlite")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    cache_migrations()
    with open_store(options.store) as store:
        cases = range(options.cases) if options.only is None else [options.only]
        begun = time.monotonic()
        problems = 0
        for problem in run_cases(store, options.seed, cases, seconds=SLOW_SECONDS):
            print(problem, flush=True)
            problems += 1
        speed = len(cases) / (time.monotonic() - begun)
    print(f"{len(cases)} changed stores on {options.store}, {speed:.0f} a second, {problems} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
