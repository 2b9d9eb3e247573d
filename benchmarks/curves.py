"""Record the curves that ``benchmarks.search`` compares strategies on: an hour or so on two cores.

    python -m benchmarks.curves

runs the study curves.toml, unpruned, in the store that ``HPO_STORE`` names, and writes curves.csv.
"""

import os
import subprocess
import sys
from pathlib import Path

from hpo.analysis import surrogate
from hpo.store import studies

HERE = Path(__file__).parent
NAME = "curves"


def main() -> None:
    """Run the study, or what is left of it, and write its curves."""
    subprocess.run([sys.executable, "-m", "hpo", "run", str(HERE / "curves.toml")], check=True)
    opened = studies.open_storage(os.environ.get("HPO_STORE", "sqlite:///storage/hpo.db"), create=False)
    recorded = surrogate.curves_of_study(opened, NAME)
    surrogate.write_curves(recorded, HERE / "curves.csv")
    print(f"{len(recorded.curves)} curves of {recorded.epochs} epochs")


if __name__ == "__main__":
    main()
