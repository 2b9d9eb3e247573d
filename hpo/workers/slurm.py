"""Workers by Slurm: a job array, each task of which keeps one worker going.

The script says all that Slurm and its readers have to know, and holds no password: the store's travels as
PGPASSWORD in the job's environment, which Slurm shows to the job's owner alone and keeps when a job is
queued again.

* A worker that dies is started again by the script, since Slurm gives up a job whose script fails.
* A node that dies is Slurm's: it queues the task again. The lease lets another take the trial meanwhile.
* At the time limit Slurm tells the script, the script the worker, which saves and gives its trial back;
  then the script has the task queued again. A task that was cancelled only leaves.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from hpo.errors import EngineError
from hpo.store import database
from hpo.workers.supervisor import WorkerGroup

GPU_OPTIONS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")  # sbatch's ways to ask for a GPU
WORKER_LOOP = """\
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_ON_NODE:-1}}"

# The word to stop is passed on: the worker saves at its next step and gives its trial back.
told=
trap 'told=yes; kill -TERM $(jobs -p) 2>/dev/null' TERM

# A worker that dies is started again, after pauses that grow to 30 s. It leaves with 0 when the study is
# done, 78 where no restart can mend it, 130 or 143 when it was told to stop.
pause=1
until [ "$told" ]; do
  begun=$SECONDS
  "${worker[@]}" </dev/null &
  # A signal ends the wait, not the worker.
  while wait $!; code=$?; [ "$code" -gt 128 ] && kill -0 $! 2>/dev/null; do :; done
  case $code in 0 | 78 | 130 | 143) break ;; esac
  [ $((SECONDS - begun)) -gt 30 ] && pause=1
  echo "hpo: the worker died with exit code $code; starting it again in $pause s" >&2
  sleep "$pause" & wait $!
  pause=$((pause < 15 ? pause * 2 : 30))
done

case $code in 0 | 78) exit "$code" ;; esac

# A task that was told to stop while Slurm counts it as running has reached its time limit: it is queued
# again. One that was cancelled, or queued again by others, does not count as running any longer.
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
[ "$told" ] && [ "$(squeue -h -t RUNNING -o %T -j "$task")" ] && scontrol requeue "$task"
exit "$code"
"""


def build_script(crew: WorkerGroup, folder: Path, logs: Path) -> str:
    """Give the batch script of a crew that works in ``folder``; no password stands in it."""
    count = f"{crew.workers} worker{'s' * (crew.workers > 1)}"
    options = _sbatch_options(crew, folder, logs)
    device = "cpu" if crew.gpus is False else "cuda:0"  # Slurm lets a task see its own GPU alone
    worker = [sys.executable, "-m", "hpo", "worker", crew.study, "--device", device]
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH --{_format_option(name, value)}" for name, value in options.items()),
            "",
            f"# {count} of the study {crew.study}, one a task: hpo launch --engine slurm wrote this.",
            f"# To submit it by hand: mkdir -p {shlex.quote(str(logs))}, then sbatch.",
            "# A password for the store comes in PGPASSWORD, or from ~/.pgpass.",
            *(
                f"export {name}={shlex.quote(value)}"
                for name, value in _public_settings(crew.settings).items()
            ),
            f"worker=({shlex.join(worker)})",
            WORKER_LOOP,
        ]
    )


def submit_script(text: str, crew: WorkerGroup, logs: Path) -> str:
    """Hand a crew's script to Slurm and give the job's number; raises EngineError if it is not taken."""
    if shutil.which("sbatch") is None:
        raise EngineError(
            "--engine slurm: no command 'sbatch' here; run this where jobs are submitted from, "
            "or carry there what --print shows"
        )
    logs.mkdir(parents=True, exist_ok=True)
    # What the user's environment says to sbatch would outdo the script.
    outdone = {f"SBATCH_{name.upper().replace('-', '_')}" for name in _sbatch_options(crew, Path(), logs)}
    environment = {name: value for name, value in os.environ.items() if name not in outdone}
    environment |= _secret_environment(crew.settings)
    done = subprocess.run(
        ["sbatch", "--parsable"], input=text, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise EngineError(f"--engine slurm: {done.stderr.strip() or f'sbatch left with {done.returncode}'}")
    return done.stdout.strip().partition(";")[0]  # the cluster's name follows


def _sbatch_options(crew: WorkerGroup, folder: Path, logs: Path) -> dict[str, str]:
    asks = (
        {"gres": "gpu:1"} if crew.gpus is not False and not crew.options.keys() & set(GPU_OPTIONS) else {}
    )
    return {
        "job-name": f"hpo-{crew.study}",
        "array": f"0-{crew.workers - 1}",
        **asks,
        "requeue": "",
        "signal": "B:TERM@90",
        "open-mode": "append",
        "output": str(logs).replace("%", "%%") + "/slurm-%A_%a.log",
        "chdir": str(folder),
        "export": "ALL",
        **crew.options,
    }


def _format_option(name: str, value: str) -> str:
    return f"{name}={shlex.quote(value)}" if value else name


def _public_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Give the settings as anybody may read them; what might hide a password comes by the environment."""
    store = database.without_password(database.parse_url(settings["HPO_STORE"]))
    return {"HPO_STORE": store} | {
        name: value for name, value in settings.items() if name != "HPO_STORE" and "@" not in value
    }


def _secret_environment(settings: Mapping[str, str]) -> dict[str, str]:
    url = database.parse_url(settings["HPO_STORE"])
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    return {**settings, "HPO_STORE": database.without_password(url), **password}
