"""Starts the processes of one training run on this machine:

    python -m experiments.launch --processes 2 --devices 2 -- python my_training.py

runs ``python my_training.py`` twice, with two CPU devices each, and with the variables that
`jaxconv.train.initialize_distributed` reads, which the program calls first. On a cluster its own launcher does this:
docs/scaling.md. Lines of all processes but the first are shown with their number before them. If one process fails, the
others are stopped and one line says which it was; SIGINT and SIGTERM are passed on to all.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

# Seconds that the other processes have to end after one failed, before they are killed. They are in the middle of a
# step that waits for the one that is gone.
GRACE = 5.0
PATIENCE = 3.0  # seconds until those that still run get SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the processes; 0 if all of them succeeded."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch",
        description="Starts the processes of one training run on this machine.",
        usage="%(prog)s [-h] --processes N [--devices N] -- COMMAND ...",
    )
    parser.add_argument("--processes", type=int, required=True, metavar="N", help="how many")
    parser.add_argument("--devices", type=int, metavar="N", help="CPU devices of each; without it what JAX finds")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what each runs")
    options = parser.parse_args(arguments)
    for name in ("processes", "devices"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name}: expected 1 or more, got {value}")
    return launch(options.command, options.processes, devices=options.devices)


def launch(command: Sequence[str], processes: int, *, devices: int | None = None) -> int:
    """Runs a command in each of several processes; 0 if all of them succeeded."""
    shared = {**os.environ, "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    if devices is not None:
        shared |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    started: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []

    def pass_on(number: int, _: object) -> None:
        stop(started, signal.Signals(number))

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for index in range(processes):
            pipe = None if index == 0 else subprocess.PIPE
            # A group of its own: Ctrl-C of a terminal reaches each once, through pass_on.
            process = subprocess.Popen(
                command,
                env=shared | {"JAX_PROCESS_ID": str(index)},
                stdout=pipe,
                stderr=pipe,
                process_group=0,
            )
            started.append(process)
            for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                if source is not None:
                    readers.append(threading.Thread(target=_prefixed, args=(source, target, index), daemon=True))
                    readers[-1].start()
        return _wait(started)
    finally:
        stop(started, signal.SIGKILL)
        for process in started:
            process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
        for reader in readers:
            reader.join(5)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def stop(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    """Sends a signal to those that still run."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits until all have succeeded, or one has failed and the others are stopped."""
    while True:
        codes = [process.poll() for process in processes]
        # The one that was killed before those that noticed.
        failed = min(
            (index for index, code in enumerate(codes) if code), key=lambda i: ((codes[i] or 0) > 0, i), default=None
        )
        if failed is not None:
            break
        if None not in codes:
            return 0
        time.sleep(0.1)
    # The status of one that was stopped by the failure of another says nothing.
    status = _described(codes[failed] or 0)
    # Those that stop by themselves, as after a signal to all, may say so first.
    for seconds, number in ((PATIENCE, signal.SIGTERM), (GRACE, signal.SIGKILL)):
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.1)
        stop(processes, number)
    print(
        f"launch: process {failed} of {len(processes)} {status}, so the others were stopped. "
        "To continue, run the same command again: fit(..., resume=True) starts from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    return 1


def _described(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with status {code}"


def _prefixed(source: IO[bytes], target: IO[str], index: int) -> None:
    with source:
        for line in source:
            target.write(f"[{index}] {line.decode(errors='replace')}")
            target.flush()


if __name__ == "__main__":
    sys.exit(main())
