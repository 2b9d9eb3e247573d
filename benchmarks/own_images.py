"""Compare the best settings of two studies on a folder of images, at equal epochs and over the same seeds.

Both studies are searched with ``hpo run``. The best setting of each is run again with several seeds by
``hpo finish``, which trains on the training and validation images and scores each run once, on the test
split. The studies draw the same splits, so values are paired by seed.

Studies and results stay in the store and in the artifacts that HPO_STORE and HPO_ARTIFACTS name, under the
folder's and the study's names. A comparison that was interrupted goes on where it was.

    python -m benchmarks.own_images clipart --set train.image_size=64 --set train.weights=none
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hpo.analysis import intervals

PEERS = ("finetune", "own-images")


def run_hpo(*arguments: str) -> str:
    """Run the program and return what it prints."""
    command = [sys.executable, "-m", "hpo", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def best_setting(
    study: str, folder: Path, overrides: list[str], seeds: int, devices: str
) -> dict[str, Any]:
    """Search a study and return the runs of its best setting, as ``hpo finish --json`` prints them."""
    name = f"{folder.name}-{study}"
    options = [f"train.dataset=folder:{folder}", *overrides]
    arguments = [argument for option in options for argument in ("--set", option)]
    run_hpo("run", study, "--name", name, "--devices", devices, *arguments)
    found = run_hpo("finish", name, "--top", "1", "--seeds", str(seeds), "--devices", devices, "--json")
    setting: dict[str, Any] = json.loads(found)["settings"][0]
    return setting


def main() -> None:
    """Search both studies, and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="class folders")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--devices", default="auto")
    parser.add_argument(
        "--studies", nargs=2, default=PEERS, help="the second one is compared with the first"
    )
    args = parser.parse_args()
    folder = args.folder.resolve()
    found = [best_setting(each, folder, args.overrides, args.seeds, args.devices) for each in args.studies]
    first, second = (setting["values"] for setting in found)
    pairs = [(second[seed], first[seed]) for seed in first if seed in second]
    gap = intervals.paired_difference(pairs)
    table = Table("study", "test accuracy, mean", "runs", "best setting", box=None)
    for study, setting in zip(args.studies, found, strict=True):
        params = " ".join(f"{name}={value}" for name, value in setting["params"].items())
        table.add_row(study, f"{setting['mean']:.4f}", str(len(setting["values"])), params)
    console = Console(width=160)
    console.print(table)
    console.print(f"difference {gap.value:+.4f}, 95 % interval {gap.low:+.4f} to {gap.high:+.4f}")
    rows = dict(zip(args.studies, found, strict=True))
    difference = {"mean": gap.value, "low": gap.low, "high": gap.high}
    print(json.dumps({"benchmark": "own_images", "folder": folder.name, "difference": difference, **rows}))


if __name__ == "__main__":
    main()
