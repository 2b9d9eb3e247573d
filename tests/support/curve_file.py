"""A file of made-up curves."""

import csv
import random
from pathlib import Path

EPOCHS = 9


def write_curve_file(path: Path, rows: int = 60) -> Path:
    """Write curves of a synthetic objective: x near 0.7 is best, adam is worse and has no momentum."""
    rng = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "optimizer", "momentum", "seconds", *range(1, EPOCHS + 1)])
        for _ in range(rows):
            x, sgd = rng.random(), rng.random() < 0.5
            momentum = rng.uniform(0.1, 0.9) if sgd else ""
            best = 0.9 - (x - 0.7) ** 2 - (0 if sgd else 0.1)
            curve = [f"{best - 0.3 / epoch:.4f}" for epoch in range(1, EPOCHS + 1)]
            writer.writerow([x, "sgd" if sgd else "adam", momentum, 18, *curve])
    return path
