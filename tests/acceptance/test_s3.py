"""Artifacts in an S3, moto's, from workers in networks of their own that share but it and a Postgres."""

import contextlib
import io
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import fsspec
import optuna
import pytest
import sqlalchemy as sa
import torch

from hpo.artifacts.folders import Artifacts
from hpo.errors import ArtifactError, ArtifactsUnavailable
from hpo.workers import supervisor
from tests.support import postgres
from tests.support.databases import closed_engines, plain_sql
from tests.support.network import Link, linked
from tests.support.processes import wait_for
from tests.support.workplace import HPO, Workplace

BUCKET, ROOT = "studies", "s3://studies/vision"
LEASE_SECONDS = 5
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}

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
    """Give the speed, the number and the process of every epoch that was trained, in that order."""
    path = place.path / "progress"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# The servers and the machines


@dataclass(frozen=True, kw_only=True)
class S3:
    """A running S3 with a bucket in it."""

    port: int

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}"

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.url(),
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )

    def names(self) -> set[str]:
        """Give the names of all objects, as rows name them."""
        found = self.client().list_objects_v2(Bucket=BUCKET, Prefix="vision/").get("Contents", [])
        return {each["Key"].removeprefix("vision/") for each in found}

    def load(self, name: str):
        content = self.client().get_object(Bucket=BUCKET, Key=f"vision/{name}")["Body"].read()
        return torch.load(io.BytesIO(content), weights_only=True)

    def let_in(self, requests: str) -> None:
        """Let in anybody for so many requests more, then nobody whom it does not know."""
        url, plain = f"{self.url()}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, requests.encode(), plain)).close()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    server = S3(port=postgres.free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(server.port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(server.port))
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A network namespace, the store and the artifacts as they are reached from there."""

    link: Link
    settings: dict[str, str]

    def start(self, place, name: str) -> subprocess.Popen:
        own = place.path / f"{name}.tmp"  # where a worker that is killed leaves its trial's folder
        own.mkdir()
        with (place.path / name).open("w") as err:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.link.namespace, *HPO, "worker", "small"],
                cwd=place.path,
                env={**place.environment, **self.settings, "TMPDIR": str(own)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=err,
            )

    def received(self) -> int:
        """Give the bytes that came from there."""
        return int(Path(f"/sys/class/net/{self.link.here.interface}/statistics/rx_bytes").read_text())


@dataclass(frozen=True, kw_only=True)
class Site:
    """Two machines, and the store as it is reached from here."""

    url: str
    machines: tuple[Machine, Machine]
    sql: object


@pytest.fixture
def site(s3) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        links = [stack.enter_context(linked(number)) for number in (0, 1)]
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
                    "AWS_ENDPOINT_URL": s3.url(link.aside.address),
                },
            )
            for link, url in zip(links, urls, strict=True)
        ]
        url = machines[0].settings["HPO_STORE"]
        yield Site(url=url, machines=tuple(machines), sql=plain_sql(url))


@contextlib.contextmanager
def ended(*workers: subprocess.Popen) -> Iterator[None]:
    """Leave no process of these behind."""
    try:
        yield
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


def said(place, name: str) -> str:
    return (place.path / name).read_text()


def check(site: Site, s3: S3, epochs: int, attempts: list[int]) -> None:
    """Check that each trial is complete, and that the bucket holds what it names, whole, and no more."""
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
    assert not any("/checkpoint-" in name for name in names), "they are of no more use"


def test_a_killed_workers_trial_goes_on_from_its_checkpoint_in_another_network(place, site, s3):
    place.here("create", place.study(study(points=3, epochs=8, seconds=0.25)), HPO_STORE=site.url)
    one, other = (machine.start(place, name) for machine, name in zip(site.machines, "ab", strict=True))
    saved = "SELECT owner, checkpoint FROM hpo_leases WHERE checkpoint IS NOT NULL AND owner LIKE :owner"
    with ended(one, other):
        ((_, name),) = wait_for(lambda: site.sql(saved, owner=f"%/{one.pid}"))
        one.kill()
        assert name in s3.names()
        assert other.wait(90) == 0, said(place, "b")
    assert "continues after epoch" in said(place, "b")
    attempts = [
        trial.user_attrs["attempts"]
        for trial in optuna.load_study(study_name="small", storage=site.url).trials
    ]
    assert sorted(attempts) == [1, 1, 2]
    check(site, s3, 8, attempts)


def test_a_cut_from_the_artifacts_alone_is_waited_for_and_the_lease_kept(place, site, s3):
    """The cut comes while a checkpoint is on its way; a shorter one, while the weights are."""
    text = study(points=2, epochs=40, seconds=0.2, numbers=300_000)
    place.here("create", place.study(text), HPO_STORE=site.url)
    cut_off, other = site.machines
    link = cut_off.link
    end, rate = link.there, ("rate", "8mbit", "burst", "32kbit", "latency", "400ms")
    tc = ["tc", "-n", link.namespace, "qdisc", "add", "dev", end.interface, "root", "tbf", *rate]
    subprocess.run(tc, check=True)
    one = cut_off.start(place, "a")
    with contextlib.ExitStack() as cleanup:
        cleanup.enter_context(ended(one))
        wait_for(lambda: progress(place))
        is_on_its_way(cut_off)
        link.cut_aside()
        begun = time.monotonic()
        two = other.start(place, "b")
        cleanup.enter_context(ended(two))
        wait_for(lambda: "trying again" in said(place, "a"))
        noticed = time.monotonic() - begun
        assert noticed > LEASE_SECONDS
        named = "SELECT checkpoint FROM hpo_leases JOIN trials USING (trial_id) WHERE number = 0"
        assert site.sql(named) == [(None,)]
        assert not any("/0000/checkpoint-" in name for name in s3.names())
        wait_for(lambda: len([words for words in progress(place) if words[0] == "1.0"]) > 10)
        before = len([words for words in progress(place) if words[0] == "1.0"])
        link.heal_aside()
        healed = time.monotonic()
        wait_for(lambda: "is back after" in said(place, "a"))
        back = time.monotonic() - healed
        wait_for(lambda: len([words for words in progress(place) if words[0] == "1.0"]) == 40)
        is_on_its_way(cut_off)
        link.cut_aside()
        time.sleep(1.0)
        link.heal_aside()
        assert (one.wait(60), two.wait(60)) == (0, 0), said(place, "a") + said(place, "b")
    print(f"noticed after {noticed:.1f} s, in epoch {before}; back {back:.1f} s after the heal")
    assert len(progress(place)) == 2 * 40, "no epoch was run twice"
    check(site, s3, 40, [1, 1])


def is_on_its_way(machine: Machine) -> None:
    """Wait until an upload of megabytes from there has begun, and has not ended."""
    before = machine.received()
    wait_for(lambda: machine.received() > before + 400_000)


# What waiting does not mend


@pytest.fixture
def here(s3, monkeypatch, tmp_path) -> None:
    """Speak to this S3 from here, with nothing left of an earlier test."""
    settings = {"AWS_ENDPOINT_URL": s3.url(), "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    for key, value in {**KEYS, **settings}.items():
        monkeypatch.setenv(key, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_a_bucket_that_is_not_there_is_reported_in_a_line_before_a_trial_is_claimed(s3, here, place):
    settings = {"HPO_ARTIFACTS": "s3://nosuch/x", "COLUMNS": "300"}
    at = Workplace(path=place.path, environment={**place.environment, **settings})
    run = at.hpo("run", at.study(study(points=1, epochs=1, seconds=0.0)), code=1)
    deleted = at.here("delete", "small", "--yes", code=1)
    worker = at.hpo("worker", "small", code=supervisor.EXIT_FATAL)  # the study is still there
    doctor = at.here("doctor", code=1)
    (line,) = worker.err.splitlines()
    assert line.startswith("hpo: s3://nosuch/x: The specified bucket does not exist; --artifacts or ")
    assert run.err.splitlines()[-1] == deleted.err.splitlines()[-1] == line
    assert line.removeprefix("hpo: ") in doctor.out
    assert "Traceback" not in run.err + worker.err + doctor.err
    assert "nosuch" not in str(s3.client().list_buckets()["Buckets"]), "none is made by mistake"


def test_keys_that_are_missing_or_refused_are_reported_in_a_line(s3, here, monkeypatch):
    place = Artifacts(ROOT)
    s3.let_in("0")
    try:
        with pytest.raises(
            ArtifactError, match=f"^{ROOT}: .*; it takes credentials that may list, read"
        ) as met:
            place.probe()
    finally:
        s3.let_in("inf")
    assert not isinstance(met.value, ArtifactsUnavailable)
    place.probe()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ArtifactError, match=f"^{ROOT}: Unable to locate credentials; .* AWS_PROFILE"):
        Artifacts(ROOT).probe()


def test_an_s3_that_is_not_there_is_asked_once_by_whoever_waits_at_a_terminal(here, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{postgres.free_port()}")
    begun = time.monotonic()
    with pytest.raises(ArtifactsUnavailable, match=f"^{ROOT}: Could not connect to the endpoint URL"):
        Artifacts(ROOT).probe()
    assert time.monotonic() - begun < 120, "a worker retries for ten minutes"


# Listings


def test_what_others_published_is_fetched_though_the_folder_was_listed_before(s3, here):
    place = Artifacts(f"s3://{BUCKET}/listed")
    first = place.open_folder("study/0001")
    (first.path / "a").write_text("x")
    first.publish()
    assert place.list_names("study/0001") == ["a"]
    s3.client().put_object(Bucket=BUCKET, Key="listed/study/0001/b", Body=b"y")
    second = place.open_folder("study/0001")
    second.fetch()
    assert sorted(path.name for path in second.path.iterdir()) == ["a", "b"]
    place.delete_folder("study")
    assert place.list_names("study/0001") == []
    for folder in (first, second):
        folder.close()
