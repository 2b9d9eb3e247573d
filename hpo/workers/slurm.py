"""Workers by Slurm: a job array, each task of which keeps one worker running.

The batch script contains everything that Slurm and its readers have to know, but no password. The password
of the store travels as PGPASSWORD in the job's environment. Slurm shows that to the job's owner alone, and
keeps it when it requeues a job.

* A worker that dies is started again by the script, because Slurm gives up a job whose script fails.
* If a node dies, Slurm requeues the task. The trial's lease expires, and another worker resumes the trial.
* At the time limit Slurm sends SIGTERM to the script, and the script to the worker, which saves and
  releases its trial. Then the script asks Slurm to requeue the task. A cancelled task only exits.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hpo.errors import EngineError
from hpo.log_records import SUPERVISOR
from hpo.logs import FORMAT
from hpo.store import database
from hpo.workers.supervisor import WorkerGroup

GPU_OPTIONS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")  # options by which sbatch requests GPUs
WORKER_LOOP = """\
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_ON_NODE:-1}}"

# SIGTERM is passed on: the worker saves at its next step and releases its trial.
stopped=
trap 'stopped=yes; kill -TERM $(jobs -p) 2>/dev/null' TERM

# A worker that dies is started again, after pauses that grow to 30 s. It exits with 0 when the study is
# done, 78 after an error that no restart mends, 130 or 143 after a signal to stop.
pause=1
until [ "$stopped" ]; do
  begun=$SECONDS
  "${worker[@]}" </dev/null &
  # A signal ends the wait, not the worker.
  while wait $! 2>/dev/null; code=$?; [ "$code" -gt 128 ] && kill -0 $! 2>/dev/null; do :; done
  case $code in 0 | 78 | 130 | 143) break ;; esac
  [ $((SECONDS - begun)) -gt 30 ] && pause=1
  printf "$death" "$(date +%Y-%m-%dT%H:%M:%S.%3N%:z)" "$HOSTNAME" $! "$code" "$pause" >&2
  sleep "$pause" & wait $!
  pause=$((pause < 15 ? pause * 2 : 30))
done

case $code in 0 | 78) exit "$code" ;; esac

# A task that got SIGTERM while Slurm counts it as running has reached its time limit: it is requeued. One
# that was cancelled, or requeued by others, no longer counts as running.
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
[ "$stopped" ] && [ "$(squeue -h -t RUNNING -o %T -j "$task")" ] && scontrol requeue "$task"
exit "$code"
"""


def build_script(group: WorkerGroup, folder: Path, logs: Path) -> str:
    """Return the batch script of a group of workers. It contains no password.

    Each task requests one GPU, unless ``group.gpus`` is False or an option of ``GPU_OPTIONS`` is given.

    Args:
        group: The workers and sbatch's options. HPO_STORE loses its password; other settings with an "@"
            are left out, since they may hold one.
        folder: The folder that the workers run in.
        logs: The folder that Slurm writes the workers' output to.

    Raises:
        StoreError: If HPO_STORE is no URL of a store.
    """
    options = _sbatch_options(group, folder, logs)
    device = "cpu" if group.gpus is False else "cuda:0"  # Slurm lets a task see its own GPU alone
    worker = [sys.executable, "-m", "hpo", "worker", group.study, "--device", device]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH --{_format_option(name, value)}" for name, value in options.items()),
            "",
            f"# {group} of the study {group.study}, one a task: hpo launch --engine slurm wrote this.",
            f"# To submit it by hand: mkdir -p {shlex.quote(str(logs))}, then sbatch.",
            "# A password for the store comes in PGPASSWORD, or from ~/.pgpass.",
            *(
                f"export {name}={shlex.quote(value)}"
                for name, value in _public_settings(group.settings).items()
            ),
            f"worker=({shlex.join(worker)})",
            f"death={shlex.quote(_death_format(group))}",
            WORKER_LOOP,
        ]
    )


def _death_format(group: WorkerGroup) -> str:
    """Return printf's format of a log line, which gets time, host, process, exit code and pause."""
    text = "the worker died with exit code %s; starting it again in %s s"
    study = group.study.replace("%", "%%")
    if group.settings.get(FORMAT) == "json":
        where = f'"host": "%s", "process": %s, "study": {json.dumps(study)}, "trial": null'
        what = f'"logger": "{SUPERVISOR}", "message": "{text}"'
        return f'{{"time": "%s", "level": "WARNING", {where}, {what}}}\\n'
    return f"%s WARNING host=%s process=%s study={study} trial=- hpo: {text}\\n"


def submit_script(text: str, group: WorkerGroup, logs: Path) -> str:
    """Submit a batch script to Slurm.

    Args:
        text: The script that ``build_script`` returned.
        group: The workers, whose environment may hold the store's password.
        logs: The folder that Slurm writes the workers' output to; it is created.

    Returns:
        The number of the job.

    Raises:
        EngineError: If there is no sbatch here, it refuses the script, or the folder cannot be created.
        StoreError: If HPO_STORE is no URL of a store.
    """
    if shutil.which("sbatch") is None:
        raise EngineError(
            "--engine slurm: no command 'sbatch' here; run this on a machine that submits jobs, "
            "or copy there the script that --print shows"
        )
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"--engine slurm: no folder {logs} for the logs: {error.strerror}") from error
    # Variables like SBATCH_ARRAY would override the script's options.
    overriding = {
        f"SBATCH_{name.upper().replace('-', '_')}" for name in _sbatch_options(group, Path(), logs)
    }
    environment = {name: value for name, value in os.environ.items() if name not in overriding}
    environment |= _secret_environment(group.settings)
    result = subprocess.run(
        ["sbatch", "--parsable"], input=text, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise EngineError(
            f"--engine slurm: {result.stderr.strip() or f'sbatch exited with {result.returncode}'}"
        )
    return result.stdout.strip().partition(";")[0]  # the cluster's name follows


def _sbatch_options(group: WorkerGroup, folder: Path, logs: Path) -> dict[str, str]:
    gpu = (
        {"gres": "gpu:1"} if group.gpus is not False and not group.options.keys() & set(GPU_OPTIONS) else {}
    )
    return {
        "job-name": f"hpo-{group.study}",
        "array": f"0-{group.workers - 1}",
        **gpu,
        "requeue": "",
        "signal": "B:TERM@90",
        "open-mode": "append",
        "output": str(logs).replace("%", "%%") + "/slurm-%A_%a.log",
        "chdir": str(folder),
        "export": "ALL",
        **group.options,
    }


def _format_option(name: str, value: str) -> str:
    return f"{name}={shlex.quote(value)}" if value else name


def _public_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that anybody may read; those that may hold a password go by the environment."""
    store = database.without_password(database.parse_url(settings["HPO_STORE"]))
    return {"HPO_STORE": store} | {
        name: value for name, value in settings.items() if name != "HPO_STORE" and "@" not in value
    }


def _secret_environment(settings: Mapping[str, str]) -> dict[str, str]:
    url = database.parse_url(settings["HPO_STORE"])
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    return {**settings, "HPO_STORE": database.without_password(url), **password}
