"""Artifacts in S3 (moto's server); workers in separate networks share only it and a Postgres."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import optuna
import pytest
import sqlalchemy as sa

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, ArtifactsUnavailable
from hpo.workers import supervisor
from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.log_lines import messages
from tests.support.network import Link, network_link
from tests.support.processes import wait_for
from tests.support.s3 import BUCKET, KEYS, S3, running_s3
from tests.support.workplace import HPO, Workplace

ROOT = f"s3://{BUCKET}/vision"
LEASE_SECONDS = 5

OWN = """
import os
import time
import torch


def climb(config, state):
    state = state or {"epoch": 0, "weight": torch.zeros(config.numbers)}
    while state["epoch"] < config.epochs:
        time.sleep(config.seconds)
        state["epoch"] += 1
        state["weight"] += 1
        with open("progress", "a") as file:
            print(config.speed, state["epoch"], os.getpid(), file=file)
        yield 1 - 1 / (1 + state["epoch"] * config.speed), state
"""


def study(points: int, epochs: int, seconds: float, numbers: int = 10) -> str:
    head = (
        f'[train]\nobjective = "own:climb"\nepochs = {epochs}\nseconds = {seconds}\nnumbers = {numbers}\n'
    )
    listed = (f"[[points]]\nspeed = {number}.0\n" for number in range(1, points + 1))
    return head + '[search]\nsampler = "grid"\n' + "".join(listed)


def progress(place) -> list[list[str]]:
    """Return speed, number and process of every trained epoch, in the order of training."""
    path = place.path / "progress"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# The servers and the machines


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with running_s3() as server:
        yield server


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A network namespace, with the settings that reach the store and the artifacts from there."""

    link: Link
    settings: dict[str, str]

    def start(self, place, name: str) -> subprocess.Popen:
        temporary = place.path / f"{name}.tmp"  # a killed worker leaves its trial's folder here
        temporary.mkdir()
        with (place.path / name).open("w") as err:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.link.namespace, *HPO, "worker", "small"],
                cwd=place.path,
                env={**place.environment, **self.settings, "TMPDIR": str(temporary)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )

    def received(self) -> int:
        """Return the number of bytes received from the namespace."""
        return int(Path(f"/sys/class/net/{self.link.here.interface}/statistics/rx_bytes").read_text())


@dataclass(frozen=True, kw_only=True)
class Site:
    """Two machines, and the URL of their store for this process."""

    url: str
    machines: tuple[Machine, Machine]
    sql: object


@pytest.fixture
def site(s3) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(network_link(number)) for number in (0, 1)]
        addresses = ",".join(link.here.address for link in links)
        server = stack.enter_context(postgres.running(listen_addresses=addresses, trusted="198.18.0.0/15"))
        stack.enter_context(closed_engines())
        urls = [sa.make_url(server.url).set(host=link.here.address) for link in links]
        machines = [
            Machine(
                link=link,
                settings={
                    **KEYS,
                    "HPO_STORE": url.render_as_string(hide_password=False),
                    "HPO_LEASE_SECONDS": str(LEASE_SECONDS),
                    "HPO_ARTIFACTS": ROOT,
                    "AWS_ENDPOINT_URL": s3.url(link.second.address),
                },
            )
            for link, url in zip(links, urls, strict=True)
        ]
        url = machines[0].settings["HPO_STORE"]
        yield Site(url=url, machines=tuple(machines), sql=plain_sql(url))


@contextlib.contextmanager
def killed_at_exit(*workers: subprocess.Popen) -> Iterator[None]:
    """Kill these processes at the end of the block if they still run."""
    try:
        yield
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


def stderr_of(place, name: str) -> str:
    return (place.path / name).read_text()


def check(site: Site, s3: S3, epochs: int, attempts: list[int]) -> None:
    """Check that each trial is complete, and that the bucket holds exactly the files that trials name."""
    trials = optuna.load_study(study_name="small", storage=site.url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * len(attempts)
    assert [trial.user_attrs["attempts"] for trial in trials] == attempts
    folder = trials[0].user_attrs["weights"].partition("/")[0]
    names = {name for name in s3.names() if name.startswith(folder)}
    for trial in trials:
        assert sorted(trial.intermediate_values) == list(range(1, epochs + 1))
        state = s3.load(trial.user_attrs["weights"])
        assert state["epoch"] == epochs
        assert set(state["weight"].tolist()) == {float(epochs)}
    assert {name for name in names if "/weights-" in name} == {t.user_attrs["weights"] for t in trials}
    assert not any("/checkpoint-" in name for name in names), "complete trials keep no checkpoint"


def test_a_killed_workers_trial_resumes_from_its_checkpoint_in_another_network(place, site, s3):
    place.here("create", place.study(study(points=3, epochs=8, seconds=0.25)), HPO_STORE=site.url)
    one, other = (machine.start(place, name) for machine, name in zip(site.machines, "ab", strict=True))
    saved = "SELECT owner, checkpoint FROM hpo_leases WHERE checkpoint IS NOT NULL AND owner LIKE :owner"
    with killed_at_exit(one, other):
        ((_, name),) = wait_for(lambda: site.sql(saved, owner=f"%/{one.pid}"))
        one.kill()
        assert name in s3.names()
        assert other.wait(90) == 0, stderr_of(place, "b")
    assert "continues after epoch" in stderr_of(place, "b")
    attempts = [
        trial.user_attrs["attempts"]
        for trial in optuna.load_study(study_name="small", storage=site.url).trials
    ]
    assert sorted(attempts) == [1, 1, 2]
    check(site, s3, 8, attempts)


def test_a_cut_from_the_artifacts_alone_delays_the_worker_and_keeps_the_lease(place, site, s3):
    """The cut comes during the upload of a checkpoint; a shorter one, during that of the weights."""
    text = study(points=2, epochs=40, seconds=0.2, numbers=300_000)
    place.here("create", place.study(text), HPO_STORE=site.url)
    cut_off, other = site.machines
    link = cut_off.link
    end, rate = link.there, ("rate", "8mbit", "burst", "32kbit", "latency", "400ms")
    tc = ["tc", "-n", link.namespace, "qdisc", "add", "dev", end.interface, "root", "tbf", *rate]
    subprocess.run(tc, check=True)
    one = cut_off.start(place, "a")
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(killed_at_exit(one))
        wait_for(lambda: progress(place))
        wait_for_upload(cut_off)
        link.cut_second()
        started = time.monotonic()
        two = other.start(place, "b")
        cleanup.enter_context(killed_at_exit(two))
        wait_for(lambda: "trying again" in stderr_of(place, "a"))
        noticed = time.monotonic() - started
        assert noticed > LEASE_SECONDS
        named = "SELECT checkpoint FROM hpo_leases JOIN trials USING (trial_id) WHERE number = 0"
        assert site.sql(named) == [(None,)]
        assert not any("/0000/checkpoint-" in name for name in s3.names())
        wait_for(lambda: len([words for words in progress(place) if words[0] == "1.0"]) > 10)
        before = len([words for words in progress(place) if words[0] == "1.0"])
        link.heal_second()
        healed = time.monotonic()
        wait_for(lambda: "is back after" in stderr_of(place, "a"))
        back = time.monotonic() - healed
        wait_for(lambda: len([words for words in progress(place) if words[0] == "1.0"]) == 40)
        wait_for_upload(cut_off)
        link.cut_second()
        time.sleep(1.0)
        link.heal_second()
        assert (one.wait(60), two.wait(60)) == (0, 0), stderr_of(place, "a") + stderr_of(place, "b")
    print(f"noticed after {noticed:.1f} s, in epoch {before}; back {back:.1f} s after the heal")
    assert len(progress(place)) == 2 * 40, "no epoch ran twice"
    check(site, s3, 40, [1, 1])


def wait_for_upload(machine: Machine) -> None:
    """Wait until a machine has started to upload megabytes, and has not finished."""
    before = machine.received()
    wait_for(lambda: machine.received() > before + 400_000)


# Errors that waiting does not fix


@pytest.fixture
def s3_environment(s3, monkeypatch, tmp_path) -> None:
    """Let this process use the S3 server, without cached instances of an earlier test."""
    settings = {"AWS_ENDPOINT_URL": s3.url(), "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    for key, value in {**KEYS, **settings}.items():
        monkeypatch.setenv(key, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_missing_bucket_is_reported_in_one_line_before_any_claim(s3, s3_environment, place):
    settings = {"HPO_ARTIFACTS": "s3://nosuch/x", "COLUMNS": "300"}
    misconfigured = Workplace(path=place.path, environment={**place.environment, **settings})
    run = misconfigured.hpo("run", misconfigured.study(study(points=1, epochs=1, seconds=0.0)), code=1)
    deleted = misconfigured.here("delete", "small", "--yes", code=1)
    worker = misconfigured.hpo("worker", "small", code=supervisor.EXIT_FATAL)  # the study still exists
    doctor = misconfigured.here("doctor", code=1)
    (line,) = messages(worker.err)
    assert line.startswith("hpo: s3://nosuch/x: The specified bucket does not exist; --artifacts or ")
    assert messages(run.err)[-1] == deleted.err.splitlines()[-1] == line
    assert line.removeprefix("hpo: ") in doctor.out
    assert "Traceback" not in run.err + worker.err + doctor.err
    assert "nosuch" not in str(s3.client().list_buckets()["Buckets"]), "the bucket is not created"


def test_keys_that_are_missing_or_refused_are_reported_in_one_line(s3, s3_environment, monkeypatch):
    artifacts = Artifacts(ROOT)
    s3.allow_unauthenticated("0")
    try:
        with pytest.raises(
            ArtifactError, match=f"^{ROOT}: .*; it takes credentials that may list, read"
        ) as raised:
            artifacts.probe()
    finally:
        s3.allow_unauthenticated("inf")
    assert not isinstance(raised.value, ArtifactsUnavailable)
    artifacts.probe()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ArtifactError, match=f"^{ROOT}: Unable to locate credentials; .* AWS_PROFILE"):
        Artifacts(ROOT).probe()


def test_probing_an_unreachable_s3_does_not_retry(s3_environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{postgres.free_port()}")
    started = time.monotonic()
    with pytest.raises(ArtifactsUnavailable, match=f"^{ROOT}: Could not connect to the endpoint URL"):
        Artifacts(ROOT).probe()
    assert time.monotonic() - started < 120, "a worker retries for ten minutes"


# Listings


def test_fetch_finds_files_that_another_worker_published_after_the_listing(s3, s3_environment):
    artifacts = Artifacts(f"s3://{BUCKET}/listed")
    first = artifacts.open_folder("study-0123abcd/0001")
    (first.path / "a").write_text("x")
    first.publish()
    assert artifacts.list_names("study-0123abcd/0001") == ["a"]
    s3.client().put_object(Bucket=BUCKET, Key="listed/study-0123abcd/0001/b", Body=b"y")
    second = artifacts.open_folder("study-0123abcd/0001")
    second.fetch()
    assert sorted(path.name for path in second.path.iterdir()) == ["a", "b"]
    artifacts.delete_study_folder("study-0123abcd")
    assert artifacts.list_names("study-0123abcd/0001") == []
    for folder in (first, second):
        folder.close()
