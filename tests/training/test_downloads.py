"""Data sets that are missing are downloaded once, or the message says what to put where."""

import contextlib
import dataclasses
import functools
import http.server
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10, MNIST

from hpo.errors import DataError
from hpo.training import datasets, file_sets, sources
from hpo.training.config import Config
from tests.support.data_sets import assert_well_formed, keys, load_error, md5, write_cifar10
from tests.support.disks import folder_without_rights
from tests.support.file_sets import pack_file_set, write_file_set
from tests.support.images import write_idx
from tests.support.workplace import ROOT

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def server(tmp_path):
    """Serve a folder over HTTP; yield the folder, its URL, and the list of requests."""
    folder = tmp_path / "served"
    folder.mkdir()
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, _format, *args):
            requests.append(self.command + " " + self.path.lstrip("/"))

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/", requests
        running.shutdown()
        thread.join()


def serve_mnist(server, monkeypatch, count=40):
    folder, url, _ = server
    write_idx(folder, [n % 10 for n in range(count)])
    resources = [(name, md5(folder / name)) for name, _ in MNIST.resources]
    monkeypatch.setattr(MNIST, "mirrors", [url])
    monkeypatch.setattr(MNIST, "resources", resources)
    return resources


def test_a_missing_data_set_is_downloaded_once_and_kept(tmp_path, server, monkeypatch, capfd, caplog):
    serve_mnist(server, monkeypatch)
    caplog.set_level(logging.INFO)
    config = Config(dataset="mnist")
    first = datasets.load_dataset(config, tmp_path / "new/root")
    assert_well_formed(first, 1, 28)
    assert "downloading mnist" in caplog.text
    assert capfd.readouterr() == ("", "")
    downloaded = len(server[2])
    again = datasets.load_dataset(config, tmp_path / "new/root")
    assert len(server[2]) == downloaded
    assert keys(first.train) == keys(again.train)


def test_an_archive_is_downloaded_and_unpacked(tmp_path, server, monkeypatch, capfd):
    folder, url, requests = server
    write_cifar10(folder, monkeypatch, archive=True)
    monkeypatch.setattr(CIFAR10, "url", url + "cifar-10-python.tar.gz")
    assert len(datasets.load_dataset(Config(dataset="cifar10"), tmp_path / "root").train) == 90
    assert requests.count("GET cifar-10-python.tar.gz") >= 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["flowers102", "oxford_pets", "eurosat"])
def test_image_files_are_downloaded_once_and_kept(tmp_path, server, monkeypatch, capfd, name):
    folder, url, requests = server
    write_file_set(name, tmp_path / "made", monkeypatch)
    pack_file_set(name, tmp_path / "made", monkeypatch)
    known, archives = file_sets.FILE_SETS[name], []
    for archive in known.archives:
        file = (tmp_path / "made" / archive.path).rename(folder / Path(archive.path).name)
        archives.append(dataclasses.replace(archive, url=url + file.name))
    served = dataclasses.replace(known, archives=tuple(archives))
    monkeypatch.setitem(file_sets.FILE_SETS, name, served)
    config, root = Config(dataset=name, image_size=8), tmp_path / "new/root"
    first = datasets.load_dataset(config, root)
    assert sum(request.startswith("GET") for request in requests) >= len(archives)
    downloaded = len(requests)
    again = datasets.load_dataset(config, root)
    assert len(requests) == downloaded
    assert keys(first.train) == keys(again.train)
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(root / known.folders[0])  # it is unpacked again
    assert keys(datasets.load_dataset(config, root).train) == keys(first.train)
    assert len(requests) == downloaded


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "cifar10",
            "put cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz there",
        ),
        (
            "cifar100",
            "put cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz ",
        ),
        ("svhn", "train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/ there"),
        ("mnist", "mnist/{train,t10k}-images-idx3-ubyte.gz"),
        (
            "stl10",
            "put stl10_binary.tar.gz from http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz ",
        ),
        (
            "oxford_pets",
            "put oxford-iiit-pet/images.tar.gz and oxford-iiit-pet/annotations.tar.gz from "
            "https://www.robots.ox.ac.uk/~vgg/data/pets/data/ there",
        ),
        ("food101", "put food-101.tar.gz from http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz there"),
        (
            "flowers102",
            "and flowers-102/setid.mat from https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ ",
        ),
        ("eurosat", "put eurosat/EuroSAT.zip from https://huggingface.co/datasets/torchgeo/eurosat/"),
        ("dtd", "put dtd/dtd-r1.0.1.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-"),
        ("imagenette", "put imagenette2.tgz from https://s3.amazonaws.com/fast-ai-imageclas/imagenette2"),
    ],
)
def test_without_a_copy_or_a_network_the_message_says_what_to_put_where(tmp_path, name, wanted, capfd):
    message = load_error(Config(dataset=name), tmp_path / "data")
    assert message.startswith(f"{name}: no complete copy in {tmp_path / 'data'}")
    assert "Connection refused" in message
    assert wanted in message
    assert "--data" in message
    assert "HPO_DATA" in message
    assert capfd.readouterr() == ("", "")


def test_an_archive_that_is_there_but_damaged_is_named(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half a download")
    message = load_error(Config(dataset="cifar10"), tmp_path)
    assert f"no complete copy in {tmp_path} although cifar-10-python.tar.gz is there: damaged" in message


def test_a_download_with_a_wrong_checksum_is_refused_and_not_kept(tmp_path, server, monkeypatch):
    resources = serve_mnist(server, monkeypatch)
    monkeypatch.setattr(MNIST, "resources", [(name, "0" * 32) for name, _ in resources])
    assert "corrupted" in load_error(Config(dataset="mnist"), tmp_path / "root")
    monkeypatch.setattr(MNIST, "resources", resources)
    assert len(datasets.load_dataset(Config(dataset="mnist"), tmp_path / "root").test) == 3


def test_a_folder_that_cannot_be_created_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    assert "cifar10: no complete copy" in load_error(Config(dataset="cifar10"), tmp_path / "file")


def test_a_half_written_archive_is_downloaded_again(tmp_path, server, monkeypatch):
    folder, url, _ = server
    write_cifar10(folder, monkeypatch, archive=True)
    monkeypatch.setattr(CIFAR10, "url", url + "cifar-10-python.tar.gz")
    whole = (folder / "cifar-10-python.tar.gz").read_bytes()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])
    assert len(datasets.load_dataset(Config(dataset="cifar10"), tmp_path).train) == 90


def test_workers_that_start_together_download_a_data_set_once(tmp_path, server, monkeypatch):
    resources = serve_mnist(server, monkeypatch)
    script = (
        "import json, pathlib, sys\n"
        "from torchvision.datasets import MNIST\n"
        "from hpo.training import config, datasets\n"
        "url, resources, root = json.loads(sys.argv[1])\n"
        "MNIST.mirrors, MNIST.resources = [url], resources\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "dataset = datasets.load_dataset(config.Config(dataset='mnist'), pathlib.Path(root))\n"
        "print(len(dataset.train), int(dataset.train.images.sum()))\n"
    )
    arguments = json.dumps([server[1], resources, str(tmp_path / "root")])
    with contextlib.ExitStack() as running:
        workers = [
            running.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", script, arguments],
                    cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        for worker in workers:
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            worker.stdin.write("go\n")
            worker.stdin.flush()
        printed = [worker.communicate()[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert printed[0] == printed[1]
    assert printed[0].startswith("36 ")
    concurrent_requests = len(server[2])
    datasets.load_dataset(Config(dataset="mnist"), tmp_path / "alone")
    assert len(server[2]) == 2 * concurrent_requests


def test_a_copy_in_a_folder_that_cannot_be_written_is_read(tmp_path):
    write_idx(tmp_path / "mnist", [0, 1] * 10)
    (tmp_path / ".mnist.lock").mkdir()  # so that not even root can open a lock file there
    assert len(datasets.load_dataset(Config(dataset="mnist", selection="test"), tmp_path).train) == 20


@pytest.mark.parametrize(
    ("name", "file", "ask"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_1", sources.has_copy),
        ("cifar10", "cifar-10-python.tar.gz", sources.is_packed),
        ("mnist", "mnist/train-images-idx3-ubyte.gz", sources.has_copy),
        ("mnist", "mnist", sources.has_copy),
    ],
)
def test_a_copy_that_may_not_be_read_is_told(monkeypatch, name, file, ask):
    with folder_without_rights() as root:
        if name == "mnist":
            write_idx(root / "mnist", [0, 1] * 10)
        else:
            write_cifar10(root, monkeypatch, archive=ask is sources.is_packed)
        (root / file).chmod(0)
        with pytest.raises(DataError) as raised:
            ask(name, root)
        (root / file).chmod(0o700)
    assert str(raised.value).startswith(f"{name}: {root}/{file}")
    assert str(raised.value).endswith(": Permission denied; hpo must be able to read it")


def test_unknown_data_sets_are_refused_with_a_suggestion(tmp_path):
    message = load_error(Config(dataset="cifar-10"), tmp_path)
    assert "did you mean 'cifar10'?" in message
    assert "folder:PATH, list:FILE.csv, hf:OWNER/NAME" in message
    assert "no data set 'folder'" in load_error(Config(dataset="folder"), tmp_path)
