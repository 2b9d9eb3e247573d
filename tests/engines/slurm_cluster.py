"""A real Slurm on this machine: a controller, and two nodes with a made-up GPU each, below one folder."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import postgres

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
NODES = ("n1", "n2")
CONF = """
ClusterName=hpo
SlurmctldHost=localhost
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=requeue_delay=1,sched_interval=5
ReturnToService=2
KillWait=10
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdTimeout=10
MessageTimeout=5
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=500
"""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The running cluster; with ``environment``, Slurm's commands use it."""

    root: Path
    environment: Mapping[str, str]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def run(self, *words: str) -> str:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def start(self, *words: object) -> None:
        log = (self.root / "daemons.log").open("ab")
        command = [str(word) for word in words]
        with log:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def processes(self, node: str | None = None) -> list[int]:
        """Return the processes of all jobs, or all processes of one node including its daemon."""
        pids = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environ = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes().split(b"\0")
                in_cluster = f"SLURM_CONF={self.root}/slurm.conf".encode() in environ
                if in_cluster and (node is None or _is_on(node, environ, command)):
                    pids.append(int(folder.name))
        return sorted(set(pids) - {os.getpid()})

    def kill(self, node: str) -> None:
        """Kill all processes of a node at once, as a power failure does."""
        while pids := self.processes(node):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for daemon in self.daemons:
                daemon.poll()


def _is_on(node: str, environ: list[bytes], command: list[bytes]) -> bool:
    return f"SLURMD_NODENAME={node}".encode() in environ or node.encode() in command


@contextlib.contextmanager
def running(root: Path) -> Iterator[Cluster]:
    """Run the cluster, yield it when both nodes are idle, and kill all its processes afterwards."""
    root.chmod(0o755)
    conf = root / "slurm.conf"
    _write_settings(root, conf)
    cluster = Cluster(root=root, environment={**os.environ, "SLURM_CONF": str(conf)})
    try:
        files = [f"--{kind}-file={root}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        cluster.start("munged", "--foreground", "--force", f"--socket={root}/munge.socket", *files)
        _wait_for((root / "munge.socket").exists)
        cluster.start("slurmctld", "-D")
        for node in NODES:
            cluster.start("slurmd", "-D", "-N", node)
        _wait_for(lambda: _count_idle_nodes(cluster) == len(NODES))
        yield cluster
    finally:
        for _ in range(2):  # twice, for processes that start during the first pass
            for pid in cluster.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for daemon in cluster.daemons:
                daemon.wait(10)


def _write_settings(root: Path, conf: Path) -> None:
    text = CONF.format(root=root, controller=postgres.free_port())
    gpus = []
    for node in NODES:
        card = root / f"card-{node}"
        os.mknod(card, 0o600 | 0o020000, os.makedev(1, 3))  # Slurm refuses a plain file; this is /dev/null
        text += (
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={postgres.free_port()} "
            "CPUs=1 RealMemory=4000 Gres=gpu:1\n"
        )
        gpus.append(f"NodeName={node} Name=gpu File={card}\n")
    conf.write_text(text)
    (root / "gres.conf").write_text("".join(gpus))
    (root / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (root / "state").mkdir()
    key = root / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)


def _count_idle_nodes(cluster: Cluster) -> int:
    words = ["sinfo", "-h", "-N", "-t", "idle", "-o", "%N"]
    done = subprocess.run(words, env=cluster.environment, capture_output=True, text=True, check=False)
    return len(done.stdout.split())


def _wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the cluster did not start"
        time.sleep(0.1)


def missing() -> str:
    """Return what the cluster lacks on this machine, or an empty string if it can run."""
    missing_tools = [tool for tool in TOOLS if shutil.which(tool) is None]
    return (
        f"no command {', '.join(missing_tools)} (Debian: slurm-wlm, munge)"
        if missing_tools
        else ""
        if os.geteuid() == 0
        else "not root"
    )
