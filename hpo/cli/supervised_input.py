"""The standard input of a supervised worker: it ends when the supervisor is gone."""

import os
import threading


def stop_at_end(stop: threading.Event) -> threading.Event:
    """Set ``stop`` when the supervisor is gone, which ends this process's standard input.

    Whoever reads standard input from now on finds it empty.

    Returns:
        What is set before ``stop`` then, unless somebody else has set ``stop``: why the worker stops.
    """
    supervisor_gone = threading.Event()
    threading.Thread(
        target=_wait_for_end, args=(_detach_input(), stop, supervisor_gone), daemon=True
    ).start()
    return supervisor_gone


def _detach_input() -> int:
    """Put an empty file in place of standard input, and return a descriptor of what was there.

    Whatever a custom objective reads, such as the commands of a debugger, then ends at once.
    """
    before = os.dup(0)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return before


def _wait_for_end(descriptor: int, stop: threading.Event, supervisor_gone: threading.Event) -> None:
    # ``sys.stdin.read`` would hold a lock meanwhile, for which each forked child would wait forever.
    while os.read(descriptor, 4096):
        pass
    if not stop.is_set():
        supervisor_gone.set()
    stop.set()
