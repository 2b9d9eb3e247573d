"""A study whose database logs every change, and lease workers for it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna

from hpo.store import studies
from tests.support import lease_worker
from tests.support.lease_worker import NAME
from tests.support.processes import process_state

TABLE = "CREATE TABLE log (event TEXT, trial INTEGER, detail TEXT)"


SQLITE_LOG = (
    TABLE,
    """CREATE TRIGGER log_state AFTER UPDATE OF state ON trials WHEN OLD.state != NEW.state BEGIN
    INSERT INTO log VALUES ('state', NEW.number, OLD.state || ' ' || NEW.state); END""",
    """CREATE TRIGGER log_report AFTER INSERT ON trial_intermediate_values BEGIN INSERT INTO log
    SELECT 'report', number, NEW.step FROM trials WHERE trial_id = NEW.trial_id; END""",
    """CREATE TRIGGER log_rewrite AFTER UPDATE ON trial_intermediate_values BEGIN INSERT INTO log
    SELECT 'rewrite', number, NEW.step FROM trials WHERE trial_id = NEW.trial_id; END""",
)


POSTGRES_LOG = (
    TABLE,
    """CREATE FUNCTION log_state() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO log VALUES ('state', NEW.number, OLD.state || ' ' || NEW.state); RETURN NULL; END $$""",
    """CREATE FUNCTION log_report() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO log SELECT CASE TG_OP WHEN 'INSERT' THEN 'report' ELSE 'rewrite' END, number, NEW.step
    FROM trials WHERE trial_id = NEW.trial_id; RETURN NULL; END $$""",
    """CREATE TRIGGER log_state AFTER UPDATE OF state ON trials
    FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION log_state()""",
    """CREATE TRIGGER log_report AFTER INSERT OR UPDATE ON trial_intermediate_values
    FOR EACH ROW EXECUTE FUNCTION log_report()""",
)


class LeaseStudy:
    """A study whose database logs every change, and workers for it."""

    def __init__(self, url: str, sql, trials: int, folder: Path) -> None:
        self.url, self.sql, self.folder = url, sql, folder
        storage = studies.open_storage(url, create=True)
        studies.create_study(storage, lease_worker.definition(trials), "text")
        storage.engine.dispose()
        for statement in SQLITE_LOG if url.startswith("sqlite") else POSTGRES_LOG:
            sql(statement)

    @contextlib.contextmanager
    def workers(self, processes: int, *, seconds: float = 60.0, **options):
        """Run workers, yield them, and wait until they have run every trial."""
        text = json.dumps({"url": self.url, "processes": processes, **options})
        out, err = self.folder / "out", self.folder / "err"
        command = [sys.executable, lease_worker.__file__, text]
        with out.open("w") as output, err.open("w") as errors:
            process = subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True)
            try:
                yield Workers(process, out, err)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                assert process.poll() == 0, f"{err.read_text()}\n{out.read_text()}"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log(self, event: str) -> list[tuple[int, str]]:
        return self.sql("SELECT trial, detail FROM log WHERE event = :event ORDER BY trial", event=event)

    def check(self, trials: int, epochs: int) -> None:
        """Check the guarantees after any crash: each trial ends once, each epoch is written once."""
        study = optuna.load_study(study_name=NAME, storage=self.url)
        assert [trial.number for trial in study.trials] == list(range(trials))
        every = list(range(trials))
        begins = [number for number, change in self.log("state") if change == "WAITING RUNNING"]
        assert begins == every
        ends = [(number, change) for number, change in self.log("state") if "WAITING" not in change]
        assert ends == [(number, "RUNNING COMPLETE") for number in every]
        steps = [(number, int(step)) for number, step in self.log("report")]
        assert sorted(steps) == [(number, step) for number in every for step in range(1, epochs + 1)]
        assert self.log("rewrite") == []
        for trial in study.trials:
            writers = [trial.intermediate_values[step] for step in range(1, epochs + 1)]
            assert writers == sorted(writers), "an earlier attempt wrote a later epoch"
            assert trial.value == trial.user_attrs["attempts"], "the last attempt ended the trial"
            assert trial.user_attrs["epochs"] == epochs


class Workers:
    """Running workers, and the events that they print."""

    def __init__(self, process: subprocess.Popen, out: Path, err: Path) -> None:
        self.process, self.out, self.err = process, out, err

    def events(self, kind: str) -> list[tuple[int, ...]]:
        lines = [line.split() for line in self.out.read_text().splitlines()]
        return [tuple(map(int, words[1:])) for words in lines if words[0] == kind]

    def alive(self) -> list[int]:
        return [pid for (pid,) in self.events("start") if process_state(pid) not in ("", "Z")]

    def busy(self) -> list[int]:
        """Return the workers that run a trial."""
        over = {words for kind in ("ended", "lost") for words in self.events(kind)}
        claimed = {words[0] for words in self.events("claimed") if words not in over}
        return [pid for pid in self.alive() if pid in claimed]

    def running(self) -> bool:
        return self.process.poll() is None
