"""A supervised worker notices by its standard input that its supervisor is gone."""

import subprocess

from hpo.analysis import timeline
from hpo.store import studies
from tests.support.processes import wait_for
from tests.support.workplace import HPO, epochs_reported

OBJECTIVE = """
def count(config, state):
    for epoch in range((state or {"epoch": 0})["epoch"] + 1, config.epochs + 1):
        yield 0.5, {"epoch": epoch}
"""
STUDY = (
    '[train]\nobjective = "own:count"\nepochs = 100000\n[search]\nsampler = "grid"\n[[points]]\nlr = 1.0\n'
)


def test_a_worker_whose_supervisor_is_gone_says_so(workplace):
    (workplace.path / "own.py").write_text(OBJECTIVE)
    workplace.here("create", workplace.study(STUDY))
    command = [*HPO, "worker", "small", "--supervised", "cpu"]
    with subprocess.Popen(
        command, cwd=workplace.path, env=workplace.environment, stdin=subprocess.PIPE
    ) as process:
        wait_for(lambda: epochs_reported(workplace) >= 1)
        process.stdin.close()
        process.wait(60)
    storage = studies.open_storage(f"sqlite:///{workplace.path}/storage/hpo.db", create=False)
    last = timeline.read_timeline(storage, "small")[-1]
    assert (last.event, last.reason) == ("released", "its supervisor was gone")
