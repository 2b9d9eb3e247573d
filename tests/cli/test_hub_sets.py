"""Studies on a data set of the Hugging Face hub, from the command line."""

import pytest

from tests.support.hub import COUNTS, commit, make_splits, running_hub, write_parquet

STUDY = """
[train]
dataset = "hf:zoo/small"
image_size = 32
model = "squeezenet1_1"
weights = "none"
epochs = 1
batch_size = 4
[search]
trials = 1
sampler = "random"
pruner = "none"
[space]
lr = [0.01, 0.1]
"""


@pytest.fixture
def hub(tmp_path):
    root = tmp_path / "hub"
    write_parquet(root / "zoo/small", make_splits())
    (root / "zoo/small/README.md").write_text("---\nlicense: mit\n---\n")
    with running_hub(root) as url:
        yield root, {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home")}


def test_a_study_runs_on_a_set_of_the_hub_and_keeps_to_its_revision(workplace, hub):
    root, settings = hub
    study, folder = workplace.study(STUDY), root / "zoo/small"
    assert workplace.hpo("data", study, **settings).err == "hpo: copying images\n"
    for command in (("create", study), ("worker", "small")):  # they need no hub
        workplace.here(*command)
    assert commit(folder) in (workplace.path / "storage/data/hf/zoo--small/copy.json").read_text()
    write_parquet(folder, make_splits({**COUNTS, "train": 16}))
    found = workplace.here("data", study).out  # of the copy, not of the hub as it is now
    assert " ".join(found.splitlines()[4].split()) == "all 12 4 4 20", found
    more = ("--set", "search.trials=2")
    assert "1 trials waiting" in workplace.here("create", study, *more, "--data", "other").out
    assert not (workplace.path / "other").exists()
    refused = workplace.hpo("run", study, *more, "--data", "other", code=1, **settings).err
    assert "hf:zoo/small: not the images that study 'small' began with: 4 added ('train/" in refused
