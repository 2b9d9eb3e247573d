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

TABLE = "CREATE TABLE log (what TEXT, trial INTEGER, detail TEXT)"


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
    """A study of so many trials whose database keeps the log, and workers for it."""

    def __init__(self, url: str, sql, trials: int, folder: Path) -> None:
        self.url, self.sql, self.folder = url, sql, folder
        opened = studies.open_storage(url, create=True)
        studies.create_study(opened, lease_worker.definition(trials), "text")
        opened.engine.dispose()
        for statement in SQLITE_LOG if url.startswith("sqlite") else POSTGRES_LOG:
            sql(statement)

    @contextlib.contextmanager
    def workers(self, processes: int, *, seconds: float = 60.0, **orders):
        """Run workers; give them, and wait until they have run every trial."""
        text = json.dumps({"url": self.url, "processes": processes, **orders})
        out, err = self.folder / "out", self.folder / "err"
        command = [sys.executable, lease_worker.__file__, text]
        with out.open("w") as to, err.open("w") as errors:
            process = subprocess.Popen(command, stdout=to, stderr=errors, start_new_session=True)
            try:
                yield Workers(process, out, err)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
                assert process.poll() == 0, f"{err.read_text()}\n{out.read_text()}"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def log(self, what: str) -> list[tuple[int, str]]:
        return self.sql("SELECT trial, detail FROM log WHERE what = :what ORDER BY trial", what=what)

    def check(self, trials: int, epochs: int) -> None:
        """Check what is promised whatever died: every trial ends once, every epoch is written once."""
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
            assert writers == sorted(writers), "a later epoch was written by an earlier attempt"
            assert trial.value == trial.user_attrs["attempts"], "the last attempt ended the trial"
            assert trial.user_attrs["epochs"] == epochs


class Workers:
    """Workers that run, and what they say."""

    def __init__(self, process: subprocess.Popen, out: Path, err: Path) -> None:
        self.process, self.out, self.err = process, out, err

    def said(self, what: str) -> list[tuple[int, ...]]:
        lines = [line.split() for line in self.out.read_text().splitlines()]
        return [tuple(map(int, words[1:])) for words in lines if words[0] == what]

    def alive(self) -> list[int]:
        return [pid for (pid,) in self.said("start") if process_state(pid) not in ("", "Z")]

    def busy(self) -> list[int]:
        """Give the workers that have a trial."""
        over = {words for what in ("ended", "lost") for words in self.said(what)}
        having = {words[0] for words in self.said("claimed") if words not in over}
        return [pid for pid in self.alive() if pid in having]

    def running(self) -> bool:
        return self.process.poll() is None
