"""Random changes of what a store says about studies and trials, by plain SQL."""

import copy
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hpo.store import process
from hpo.store.attributes import parse_json
from tests.support.mutated_documents import all_paths, value_at

HUGE = 10**30
# Values that stand where hpo wrote a path, a number, a length or a state. Texts in braces are filled in.
TEXTS = (
    *("", ".", "..", "/", "~", "~root/x", "q", "nan", "-1", "0", "true", "null", "[]", "{}", "[", "\\"),
    *("../secret.txt", "../../secret.txt", "../../../secret.txt", "../../outside/secret.txt", "outside"),
    *(
        "{root}/outside/secret.txt",
        "file://{root}/outside/secret.txt",
        "memory://x",
        "s3://x/y",
        "a\\..\\b",
    ),
    *(
        "{own}",
        "{own}/0000",
        "{own}/../secret.txt",
        "{own}/0000/../../secret.txt",
        "{own}/0000/settings.json",
    ),
    *("{own}/0000/weights-0001-001.pt", "{own}/0001/weights-0001-001.pt", "{own}/0000/weights-0009-001.pt"),
    *(
        "{own}/0000/secret.txt",
        "{own}/0010/secret.txt",
        "{own}/0010/weights-0001-001.pt",
        "{other}",
        "link",
    ),
    *(
        "{other}/0000",
        "{other}/0000/weights-0001-001.pt",
        "{other}/0000/checkpoint",
        "victim-0123abcd",
        "victim",
    ),
    *(
        "victim-0123abcd/0000/weights-0001-001.pt",
        "link-0123abcd",
        "{attached}",
        "{foreign}",
    ),
    *("a\0b", "x" * 300, "x" * 240 + "-0123abcd", "a\nb", "\x1b[31m", "<script>alert(1)</script>", "größe"),
    *("\ud800", "\U0001f600", "running", "paused", "stopped", "COMPLETE", "bf16", "fp32", "nan\n# x", "%s"),
    *('{"artifact_id": "{foreign}", "filename": "../x", "mimetype": "text/html", "encoding": null}',),
    *('{"artifact_id": "..", "filename": 3}', '{"artifact_id": "../../secret.txt"}', "3", '"x"', "1e400"),
)
NUMBERS = (
    *(0, 1, 2, 3, 7, 99, -1, -(2**63), 2**31 - 1, 2**31, 2**63, HUGE),
    *(1.5, -0.5, 0.0, 1e308, -1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), True, False, None),
)
STRUCTURES: tuple[Any, ...] = (
    *([], {}, [[]], [None], [1, "x"], [-1], [1e308, 1e308], [float("nan")], {"a": {"b": []}}, {"": ""}),
    *({"device": 3}, {"device": "cpu", "host": {}}, {"class": 1}, {"class": "A"}, {"message": "no\nluck"}),
    *({"epochs": -1}, {"seed": "x"}, {"epochs": 0}, {"seed": -1}, {"epochs": 2, "seed": 2**31}, {"x": 1}),
    *({"speed": 2}, {"speed": "x", "rate": None}, {"rate": 5.0}, {"a b": "../x"}, ["../x"], [0] * 500),
)
RAW = (
    "{",
    "",
    "nul",
    "[" * 5000,
    "9" * 5000,
    "NaN",
    "Infinity",
    '"' + "x" * 3000 + '"',
    "[1,",
    "\x00",
    "'x'",
)

TRIAL_USER = (
    *("point", "enqueued", "repeats", "attempts", "failure", "pruned", "weights", "checkpoint", "images"),
    *("epochs", "best_epoch", "epoch_seconds", "wall_time_seconds", "hardware", "baseline", "site", "room"),
)
TRIAL_SYSTEM = (
    *("grid_id", "fixed_params", "search_space", "hpo:plan", "hpo:run", "hpo:repeats", "hpo:paused"),
    *(
        "hpo:promoted",
        "hpo:decisions",
        "artifacts:{attached}",
        "artifacts:{foreign}",
        "artifacts:x",
        "constraints",
    ),
    *("completed_rung_0", "failed_trial", "retry_history", "dashboard:note_ver"),
)
STUDY_USER = ("folder", "site", "other")
STUDY_SYSTEM = (
    *("hpo:definition", "hpo:definition", "hpo:order", "hpo:precision", "hpo:retried", "hpo:images"),
    *("hpo:file", "artifacts:{attached}", "artifacts:{foreign}", "artifacts:..", "dashboard:note_ver"),
    *("dashboard:note_str:0", "dashboard:note_str:7", "dashboard:1:note_ver", "dashboard:1:note_str:0"),
    *(
        "dashboard:artifacts:1:{foreign}",
        "dashboard:artifacts:1:x",
        "study:metric_names",
        "preference:values",
    ),
    *(
        "preference:is_preferential",
        "preference:history:x",
        "preference:skip_trial:1",
        "dashboard:plot_data:x:0",
    ),
    *("dashboard:form_widgets:v2", "dashboard:objective_form_widgets", "dashboard:objective_names"),
    *("preference:feedback_component", "hpo:images"),
)


@dataclass(frozen=True)
class _Attributes:
    """A table of attributes: the column of whose they are, and the keys that may be added."""

    table: str
    column: str
    keys: Sequence[str]
    weight: int


_TABLES = (
    _Attributes("trial_user_attributes", "trial_id", TRIAL_USER, 30),
    _Attributes("trial_system_attributes", "trial_id", TRIAL_SYSTEM, 22),
    _Attributes("study_user_attributes", "study_id", STUDY_USER, 12),
    _Attributes("study_system_attributes", "study_id", STUDY_SYSTEM, 20),
)
_STATES = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")
_FLOATS = (0.0, 1.0, 0.5, -1.0, 1e308, -1e308, 5e-324, 2.0, 3.0, 1e9, None)


class Mutator:
    """Changes the rows of a store at random.

    Args:
        connection: A connection to the store; the caller commits.
        rng: Decides what changes.
        names: What the braces in texts stand for, by name.
    """

    def __init__(self, connection: sa.Connection, rng: random.Random, names: Mapping[str, str]) -> None:
        self.connection, self.rng, self.names = connection, rng, names

    def change(self) -> str:
        """Make one change, and describe it."""
        kinds = [
            *_TABLES,
            "value",
            "report",
            "param",
            "state",
            "lease",
            "attempt",
            "event",
            "worker",
            "version",
        ]
        weights = [*(each.weight for each in _TABLES), 4, 4, 8, 4, 4, 4, 2, 2, 1]
        (kind,) = self.rng.choices(kinds, weights)
        if isinstance(kind, _Attributes):
            return self._change_attribute(kind)
        return str(getattr(self, f"_change_{kind}")())

    def value(self) -> Any:
        """Return a random value."""
        kind = self.rng.random()
        if kind < 0.5:
            return self._fill(self.rng.choice(TEXTS))
        return copy.deepcopy(self.rng.choice(NUMBERS if kind < 0.8 else STRUCTURES))

    def _fill(self, text: str) -> str:
        for name, given in self.names.items():
            text = text.replace(f"{{{name}}}", given)
        return text

    def _rows(self, table: str) -> list[Any]:
        return list(self.connection.execute(sa.text(f"SELECT * FROM {table} ORDER BY 1")))

    def _run(self, statement: str, **values: Any) -> None:
        self.connection.execute(sa.text(statement), values)

    def _change_attribute(self, place: _Attributes) -> str:
        rows = self._rows(place.table)
        row, how = self.rng.choice(rows), self.rng.random()
        owner, key = getattr(row, place.column), row.key
        if how < 0.1:
            self._delete(place, owner, key)
            return f"{place.table} {owner} {key}: deleted"
        if how < 0.5:
            key = self._fill(self.rng.choice(place.keys))
        found = next(
            (each for each in rows if (getattr(each, place.column), each.key) == (owner, key)), None
        )
        before = None if found is None else found.value_json
        text = self._changed(before)
        self._delete(place, owner, key)
        self._run(
            f"INSERT INTO {place.table} ({place.column}, key, value_json) VALUES (:owner, :key, :text)",
            owner=owner,
            key=key,
            text=text,
        )
        return f"{place.table} {owner} {key}: {text[:200]!r}"

    def _delete(self, place: _Attributes, owner: int, key: str) -> None:
        self._run(
            f"DELETE FROM {place.table} WHERE {place.column} = :owner AND key = :key", owner=owner, key=key
        )

    def _changed(self, before: str | None) -> str:
        """Return the JSON text of another value, or what is no JSON."""
        how = self.rng.random()
        if how < 0.04:
            return self.rng.choice(RAW)
        if before is not None and how < 0.5:
            return self._changed_within(before)
        value = self.value()
        return json.dumps(json.dumps(value) if how > 0.97 else value)

    def _changed_within(self, text: str) -> str:
        """Return a JSON text with one part changed, also within a text that itself is JSON."""
        found = parse_json(text)
        inner = parse_json(found) if isinstance(found, str) else None
        try:
            if isinstance(inner, dict | list):
                return json.dumps(json.dumps(self.with_change(inner)))
            return json.dumps(self.with_change(found) if isinstance(found, dict | list) else self.value())
        except RecursionError:  # an earlier change has nested it too deeply
            return json.dumps(self.value())

    def with_change(self, document: Any) -> Any:
        """Return a document of JSON with one part replaced or left out; no other objective is named."""
        paths = [path for path in all_paths(document) if path[-1] not in ("objective", "train")]
        if not paths:
            return self.value()
        *parents, key = self.rng.choice(paths)
        parent = value_at(document, parents)
        if self.rng.random() < 0.15:
            del parent[key]
        else:
            parent[key] = self.value()
        return document

    def _change_value(self) -> str:
        row, value = self.rng.choice(self._rows("trial_values")), self.rng.choice(_FLOATS)
        kind = self.rng.choice(("FINITE", "INF_POS", "INF_NEG"))
        stored = value if kind == "FINITE" else None
        self._run(
            "UPDATE trial_values SET value = :value, value_type = :kind WHERE trial_value_id = :id",
            value=stored,
            kind=kind,
            id=row.trial_value_id,
        )
        return f"value of trial {row.trial_id}: {stored} {kind}"

    def _change_report(self) -> str:
        row, value = self.rng.choice(self._rows("trial_intermediate_values")), self.rng.choice(_FLOATS)
        kind = self.rng.choice(("FINITE", "INF_POS", "INF_NEG", "NAN"))
        step = self.rng.choice((row.step, row.step, 0, -1, 7, 2**31 - 1))
        self._run(
            "DELETE FROM trial_intermediate_values WHERE trial_id = :trial AND step = :step AND "
            "trial_intermediate_value_id != :id",
            trial=row.trial_id,
            step=step,
            id=row.trial_intermediate_value_id,
        )
        self._run(
            "UPDATE trial_intermediate_values SET step = :step, intermediate_value = :value, "
            "intermediate_value_type = :kind WHERE trial_intermediate_value_id = :id",
            step=step,
            value=value if kind == "FINITE" else None,
            kind=kind,
            id=row.trial_intermediate_value_id,
        )
        return f"report of trial {row.trial_id}: {step} {value} {kind}"

    def _change_param(self) -> str:
        row = self.rng.choice(self._rows("trial_params"))
        value, name, text = row.param_value, row.param_name, row.distribution_json
        how = self.rng.random()
        if how < 0.5:
            value = self.rng.choice(_FLOATS[:-1])
        elif how < 0.85:
            text = self.rng.choice((self._changed_within(text), self.rng.choice(RAW), self._changed(None)))
        else:
            name = self.rng.choice(("model", "lr", "epochs", "seed", "x", "", "objective", "x" * 400))
        self._run("DELETE FROM trial_params WHERE param_id = :id", id=row.param_id)
        self._run(
            "INSERT INTO trial_params (param_id, trial_id, param_name, param_value, distribution_json) "
            "VALUES (:id, :trial, :name, :value, :text)",
            id=row.param_id,
            trial=row.trial_id,
            name=name,
            value=value,
            text=text,
        )
        return f"param of trial {row.trial_id}: {name[:20]} {value} {text[:120]!r}"

    def _change_state(self) -> str:
        row, state = self.rng.choice(self._rows("trials")), self.rng.choice(_STATES)
        column = self.rng.choice(("state", "state", "datetime_start", "datetime_complete"))
        value = state if column == "state" else None
        self._run(f"UPDATE trials SET {column} = :value WHERE trial_id = :id", value=value, id=row.trial_id)
        return f"trial {row.trial_id}: {column} = {value}"

    def _change_lease(self) -> str:
        row = self.rng.choice(self._rows("hpo_leases"))
        column, value = self.rng.choice(
            (
                *(("checkpoint", self._fill(self.rng.choice(TEXTS))) for _ in range(4)),
                *(("epoch", each) for each in (-1, 0, 99, 2**31 - 1)),
                *(("expires", each) for each in (0.0, -1e308, 1e308, 1.0)),
                *(("reported", each) for each in (None, 0.0, -1e308, 1e308, 1e12)),
                *(("token", each) for each in (-1, 0, 7, 2**31 - 1)),
                *(("owner", None), ("owner", ""), ("owner", "../x"), ("host", None)),
                ("process", self._process()),
            )
        )
        self._run(
            f"UPDATE hpo_leases SET {column} = :value WHERE trial_id = :id", value=value, id=row.trial_id
        )
        return f"lease of trial {row.trial_id}: {column} = {value!r}"

    def _process(self) -> str:
        """Return a name of a process that is none, also of one that would be of this machine."""
        return self.rng.choice(
            ("x/y", "", *(f"{process.process_namespace()}/{each}" for each in ("x/y", "1", "")))
        )

    def _change_worker(self) -> str:
        """Change the worker without a trial."""
        column = self.rng.choice(("owner", "process", "host", "device", "renewed", "expires"))
        if column in ("renewed", "expires"):
            value: Any = self.rng.choice((0.0, -1.0, 1e12, -1e308, 1e308))
        else:
            value = self._process() if column == "process" else self._fill(self.rng.choice(TEXTS))
        self._run(f"UPDATE hpo_workers SET {column} = :value", value=value)
        return f"worker: {column} = {value!r}"

    def _change_version(self) -> str:
        """Let the tables claim another version than they have."""
        value = self.rng.choice((-1, 0, 1, 2, 4, 2**31 - 1, None))
        if value is None:
            self._run("DELETE FROM hpo_schema")
        else:
            self._run("UPDATE hpo_schema SET version = :value", value=value)
        return f"version of the tables: {value}"

    def _change_attempt(self) -> str:
        row = self.rng.choice(self._rows("hpo_attempts"))
        column = self.rng.choice(
            ("began", "ended", "epochs", "owner", "device", "versions", "outcome", "reason")
        )
        if column in ("began", "ended"):
            value: Any = self.rng.choice((0.0, -1.0, 1e12, -1e308, 1e308))
        elif column == "epochs":
            value = self.rng.choice((-1, 0, 2**31 - 1, None))
        else:
            value = self._changed(None) if column == "versions" else self._fill(self.rng.choice(TEXTS))
        self._run(
            f"UPDATE hpo_attempts SET {column} = :value WHERE trial_id = :id AND token = :token",
            value=value,
            id=row.trial_id,
            token=row.token,
        )
        return f"attempt {row.token} at trial {row.trial_id}: {column} = {value!r}"

    def _change_event(self) -> str:
        row = self.rng.choice(self._rows("hpo_events"))
        column = self.rng.choice(("moment", "kind", "trial", "actor", "detail"))
        value = (
            self.rng.choice((-1e308, 1e12)) if column == "moment" else self._fill(self.rng.choice(TEXTS))
        )
        if column == "trial":
            value = self.rng.choice((-1, 2**31 - 1, None))
        self._run(
            f"UPDATE hpo_events SET {column} = :value WHERE event_id = :id", value=value, id=row.event_id
        )
        return f"event {row.event_id}: {column} = {value!r}"
