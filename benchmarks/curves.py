"""Record the curves on which ``benchmarks.search`` compares strategies. Takes about an hour on two cores.

    python -m benchmarks.curves

runs the study curves.toml without pruning, in the store that ``HPO_STORE`` names, and writes curves.csv.
"""

import os
import subprocess
import sys
from pathlib import Path

from hpo.analysis.recorded_curves import curves_of_study, write_curves
from hpo.store import studies

HERE = Path(__file__).parent
NAME = "curves"


def main() -> None:
    """Run the study, or resume it, and write its curves."""
    subprocess.run([sys.executable, "-m", "hpo", "run", str(HERE / "curves.toml")], check=True)
    storage = studies.open_storage(os.environ.get("HPO_STORE", "sqlite:///storage/hpo.db"), create=False)
    recorded = curves_of_study(storage, NAME)
    write_curves(recorded, HERE / "curves.csv")
    print(f"{len(recorded.curves)} curves of {recorded.epochs} epochs")


if __name__ == "__main__":
    main()
