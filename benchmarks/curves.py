"""Record the curves on which ``benchmarks.search`` compares strategies.

    python -m benchmarks.curves [curves | curves-clipart | curves-icons]

runs the study of that name in this folder (curves.toml) without pruning, in the store that ``HPO_STORE``
names, or resumes it, and writes its curves beside it (curves.csv). Each takes an hour or two of one core.
The pictures of two of them are Debian's package openclipart-png.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from hpo.analysis.recorded_curves import curves_of_study, write_curves
from hpo.store import studies

HERE = Path(__file__).parent
CLIPART = Path("/usr/share/openclipart/png")
CLASSES = {
    "curves": "",
    "curves-clipart": "animals buildings food people plants transportation",
    "curves-icons": "computer containers decorations education electronics geography office recreation "
    "science shapes signs_and_symbols tools",
}


def link_classes(name: str) -> None:
    """Make the folder of pictures that a study names, with a link to each of its classes."""
    folder = Path("storage/data") / name
    for each in CLASSES[name].split():
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / each).exists():
            (folder / each).symlink_to(CLIPART / each)


def main() -> None:
    """Run the study, or resume it, and write its curves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", nargs="?", choices=CLASSES, default="curves")
    name = parser.parse_args().name
    link_classes(name)
    subprocess.run([sys.executable, "-m", "hpo", "run", str(HERE / f"{name}.toml")], check=True)
    storage = studies.open_storage(os.environ.get("HPO_STORE", "sqlite:///storage/hpo.db"), create=False)
    recorded = curves_of_study(storage, name)
    write_curves(recorded, HERE / f"{name}.csv")
    print(f"{len(recorded.curves)} curves of {recorded.epochs} epochs")


if __name__ == "__main__":
    main()
