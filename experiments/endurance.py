"""Endurance test: runs of `jaxconv.train.fit` that are killed, starved and damaged, and must lose nothing.

    python -m experiments.endurance --minutes 10     # writes benchmarks/results/endurance.json

Each case starts a small run in a child process, does it some harm, starts it again until it ends, and compares the
result with that of a run that was left alone: parameters, layer state, optimizer and history bit for bit. Cases that
need a file system of their own, a full and a read-only one, mount a tmpfs, and are left out where that is not allowed.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "benchmarks" / "results" / "endurance.json"
EPOCHS, STEPS = 5, 160
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
OTHERS = {
    "network": "params/4/bias: expected float32 (5,)",
    "optimizer": "opt_state/0/trace/0/bias: expected float32 (4,)",
    "data": "examples must be 256",
    "batch size": "batch_size must be 8",
}


# ---------------------------------------------------------------------------------------------------------------------
# The child


def train(folder: str, *, epochs: int = EPOCHS, other: str = "", devices: int = 1) -> str:
    """Runs or continues the run of a folder; returns a digest of its result."""
    import jax
    import numpy as np
    import optax

    import jaxconv as jc

    count = 192 if other == "data" else 256
    classes = 5 if other == "network" else 4
    net = jc.serial(jc.Conv(4, stride=2), jc.BatchNorm(), jc.Dropout(0.2), jc.GlobalAvgPool(), jc.Dense(classes))
    images = np.random.default_rng(0).normal(size=(count, 6, 6, 1)).astype(np.float32)
    labels = (images.mean((1, 2, 3)) > 0).astype(np.int32) + 2 * (images[:, 0, 0, 0] > 0)
    mesh = None
    if devices > 1:
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    result = jc.train.fit(
        net,
        images,
        labels,
        optax.sgd(0.1, momentum=0.9) if other == "optimizer" else optax.adam(1e-2),
        loss=optax.softmax_cross_entropy_with_integer_labels,
        epochs=epochs,
        batch_size=16 if other == "batch size" else 8,
        augment=lambda key, x: x + 0.1 * jax.random.normal(key, (x.shape[0], 1, 1, 1)),
        average=0.9,
        folder=folder,
        resume=True,
        checkpoint_every=7,
        progress=False,
        mesh=mesh,
    )
    digest = hashlib.sha256()
    train_state = result.train_state
    for leaf in jax.tree.leaves((result.params, result.state, train_state.opt_state, train_state.average)):
        digest.update(np.asarray(leaf).tobytes())
    times = ("seconds", "images_per_second")
    history = [{name: value for name, value in record.items() if name not in times} for record in result.history]
    digest.update(json.dumps(history).encode())
    return digest.hexdigest()


def child(options: argparse.Namespace) -> None:
    """What a child process does."""
    if options.limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.limit, options.limit))
    if options.clock_back:
        begin = time.time()
        time.time = lambda: begin - 1000 * time.perf_counter()
    print("begins", flush=True)
    print(train(options.child, epochs=options.epochs, other=options.other, devices=options.devices), flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# The parent


class Case:
    """What a case counts.

    Args:
      digest: of the run that was left alone.
      seconds: that it took.
      rng: what harm is done, and when.
    """

    def __init__(self, digest: str, seconds: float, rng: random.Random):
        self.digest, self.seconds, self.rng = digest, seconds, rng
        self.counts: collections.Counter[str] = collections.Counter()
        self.unexpected: list[str] = []

    def check(self, right: bool, what: str, process: Any = None) -> None:
        """Counts what was expected, and keeps what was not."""
        self.counts["as expected" if right else "unexpected"] += 1
        if not right:
            error = process.stderr[-2000:] if process is not None else ""
            self.unexpected.append(f"{what}: {error}")
            print(f"unexpected: {what}: {error}", file=sys.stderr)

    def check_end(self, process: Any, what: str) -> None:
        """The run ended well, with the result of the one that was left alone."""
        self.check(process.returncode == 0 and process.stdout.split()[-1] == self.digest, what, process)

    def check_refused(self, process: Any, message: str, what: str) -> None:
        """The run ended with one error whose message has these words."""
        lines = process.stderr.strip().splitlines()
        right = process.returncode == 1 and bool(lines) and message in lines[-1]
        self.check(right, what, process)


def start(folder: Path, *arguments: str, devices: int = 1) -> subprocess.Popen[str]:
    """Starts a child."""
    command = [
        sys.executable,
        "-m",
        "experiments.endurance",
        "--child",
        str(folder),
        f"--devices={devices}",
        *arguments,
    ]
    environment = os.environ | ENVIRONMENT | {"JAX_NUM_CPU_DEVICES": str(devices)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> Any:
    """Waits for a child; returns what it said."""
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run(folder: Path, *arguments: str, devices: int = 1) -> Any:
    """Runs a child to its end."""
    return ended(start(folder, *arguments, devices=devices))


def saved(folder: Path) -> int:
    """The steps of the newest checkpoint of a run."""
    names = os.listdir(folder) if folder.is_dir() else []
    positions = [name.partition(".") for name in names if name[0].isdigit()]
    return max((int(epoch) * STEPS // EPOCHS + int(step or 0) for epoch, _, step in positions), default=0)


def saving(folder: Path) -> bool:
    """Whether a checkpoint is being written or removed, or was when the process ended."""
    return any(folder.glob(".partial-*"))


def killed(case: Case, folder: Path, number: signal.Signals = signal.SIGKILL) -> None:
    """A run that is ended again and again, in half of the tries within a save."""
    for _ in range(200):
        # By progress rather than by time, so that a machine that is faster or slower now is no matter.
        moment, in_save = case.rng.uniform(saved(folder) + 1, STEPS + 1), case.rng.random() < 0.5
        process = start(folder)
        if saved(folder) < STEPS and case.rng.random() < 0.1:
            time.sleep(case.rng.uniform(0, case.seconds / 2))
        else:
            while process.poll() is None and saved(folder) < moment:
                time.sleep(0.001)
        while in_save and process.poll() is None and not saving(folder):
            time.sleep(0.0005)
        if in_save:
            time.sleep(case.rng.uniform(0, 0.02))
        process.send_signal(number)
        done = ended(process)
        if done.returncode == 0:
            case.counts["chains"] += 1
            case.check_end(done, f"after {number.name}")
            return
        if number == signal.SIGKILL:
            where = "within a save" if saving(folder) else "elsewhere in the run"
        else:
            where = "in the run" if done.returncode == 143 else "before it" if done.returncode == -15 else "wrongly"
            if where == "wrongly":
                case.check(False, f"{number.name} ended with status {done.returncode}", done)
        if not done.stdout.startswith("begins"):
            where = "before the run"
        case.counts[f"{number.name} {where}"] += 1
    case.check(False, "a chain without end")


def terminated(case: Case, folder: Path) -> None:
    """A run that is told to stop, as clusters do, again and again."""
    killed(case, folder, signal.SIGTERM)


def damaged(case: Case, folder: Path) -> None:
    """One file of the last checkpoint is cut short, flipped or removed: the one before is used."""
    run(folder, f"--epochs={case.rng.randint(2, EPOCHS - 1)}")
    newest = max((entry for entry in folder.iterdir() if entry.name[0].isdigit()), key=lambda e: float(e.name))
    file = case.rng.choice([file for file in sorted(newest.rglob("*")) if file.is_file()])
    content, how = bytearray(file.read_bytes()), case.rng.choice(["cut", "flipped", "removed"])
    if how == "removed" or not content:
        file.unlink()
    else:
        at = case.rng.randrange(len(content))
        content[at] ^= 1 << case.rng.randrange(8)
        file.write_bytes(content[:at] if how == "cut" else content)
    case.counts[f"a file {how}"] += 1
    case.check_end(run(folder), f"{file.relative_to(folder)} {how}")


def limited(case: Case, folder: Path) -> None:
    """The disk is full, for files above a size (RLIMIT_FSIZE); then it is not."""
    if case.rng.random() < 0.5:
        run(folder, "--epochs=1")
    case.check_refused(run(folder, "--limit=900"), "could not be saved", "a limit of file sizes")
    case.check_end(run(folder), "after a limit of file sizes")


def full(case: Case, folder: Path) -> None:
    """A file system that is full after some checkpoints; then there is room."""
    with mounted(folder, "size=160k"):
        case.check_refused(run(folder / "run"), "could not be saved", "a full file system")
        mount("-o", "remount,size=100m", folder)
        case.check_end(run(folder / "run"), "after a full file system")


def read_only(case: Case, folder: Path) -> None:
    """A file system that becomes read-only between two runs."""
    with mounted(folder, "size=100m"):
        run(folder / "run", "--epochs=2")
        mount("-o", "remount,ro", folder)
        case.check_refused(run(folder / "run"), "folder: expected one that can be written to", "a read-only folder")
        mount("-o", "remount,rw", folder)
        case.check_end(run(folder / "run"), "after a read-only folder")


def removed(case: Case, folder: Path) -> None:
    """The folder is removed while the run goes on."""
    process = start(folder)
    while process.poll() is None and not list(folder.glob("0.*")):
        time.sleep(0.001)
    folder.rename(folder.with_name("gone"))
    case.check_refused(ended(process), "could not be saved", "a folder that was removed")
    case.check(not folder.exists(), "nothing is written where the folder was")
    case.check_end(run(folder.with_name("gone")), "from where it was moved to")


def twice(case: Case, folder: Path) -> None:
    """Two runs on one folder: the second is refused, until the first is killed."""
    process = start(folder)
    while process.poll() is None and not list(folder.glob("0.*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    case.check_refused(run(folder), "folder: expected no other writer", "a second run on a folder")
    process.kill()
    ended(process)
    case.check_end(run(folder), "after the first was killed")


def clock(case: Case, folder: Path) -> None:
    """The clock goes back, and the oldest checkpoint has the latest time."""
    run(folder, "--epochs=2")
    for i, entry in enumerate(sorted(folder.rglob("*"), reverse=True)):
        os.utime(entry, (2e9 + i, 2e9 + i))
    case.check_end(run(folder, "--clock-back"), "with a clock that goes back")


def others(case: Case, folder: Path) -> None:
    """Another network, optimizer, data set or batch size is refused; another mesh is not."""
    run(folder, "--epochs=2")
    for other, message in OTHERS.items():
        case.check_refused(run(folder, f"--other={other}"), message, f"another {other}")
    done = run(folder, "--epochs=3", devices=2)
    case.check(done.returncode == 0, "two devices", done)
    done = run(folder, "--epochs=4")
    case.check(done.returncode == 0, "one device again", done)


# Seconds a try takes are those of a run; so the shares of the time are about the shares of the tries.
CASES: dict[str, tuple[Callable[[Case, Path], None], float]] = {
    "kill": (killed, 0.6),
    "terminate": (terminated, 0.1),
    "damaged file": (damaged, 0.1),
    "limit of file sizes": (limited, 0.0),
    "full disk": (full, 0.0),
    "read-only": (read_only, 0.0),
    "folder removed": (removed, 0.0),
    "two runs": (twice, 0.0),
    "clock goes back": (clock, 0.0),
    "another run": (others, 0.0),
}


def mount(*arguments: Any) -> None:
    """Calls mount(8)."""
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mounts a tmpfs."""
    folder.mkdir()
    mount("-t", "tmpfs", "-o", options, "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def measure(minutes: float, names: list[str], seed: int) -> dict[str, Any]:
    """Runs cases, each once at least; returns what they counted."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as root:
        begin = time.monotonic()
        alone = run(Path(root) / "alone")
        seconds = time.monotonic() - begin
        if alone.returncode:
            raise RuntimeError(alone.stderr)
        again = run(Path(root) / "again")
        if again.stdout != alone.stdout:
            raise RuntimeError("two runs that were left alone differ")
        found: dict[str, Any] = {}
        for name in names:
            function, share = CASES[name]
            case = Case(alone.stdout.split()[-1], seconds, rng)
            until = time.monotonic() + 60 * minutes * share
            while True:
                folder = Path(root) / "case" / "run"
                folder.parent.mkdir()
                try:
                    function(case, folder)
                except subprocess.CalledProcessError as error:
                    found[name] = {"left out": error.stderr.decode().strip()}
                shutil.rmtree(folder.parent)
                if time.monotonic() >= until or name in found:
                    break
            found.setdefault(name, {**case.counts, **({"what": case.unexpected} if case.unexpected else {})})
            print(f"{name}: {found[name]}", flush=True)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases; 1 if something was not as expected."""
    parser = argparse.ArgumentParser(prog="python -m experiments.endurance", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--clock-back", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--other", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options)
        return 0
    from experiments.report import environment, write_results

    found = measure(options.minutes, options.cases, options.seed)
    write_results(options.out, environment() | {"minutes": options.minutes, "cases": found})
    return int(any(case.get("unexpected") for case in found.values()))


if __name__ == "__main__":
    sys.exit(main())
