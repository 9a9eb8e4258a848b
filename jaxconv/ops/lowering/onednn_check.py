"""Whether this jaxlib's oneDNN may be called: a list of versions, or a check that runs once in a child process.

XLA makes no promise about the names of oneDNN's calls, and a call that XLA cannot read ends the process. So a version
of jaxlib that is not in `VERSIONS` is checked where nothing is lost if the process ends: a child process computes
every role at small and edge shapes and compares with lax. The verdict is stored in the user's cache folder, one file
for each version of jaxlib and processor, and read from there afterwards.

The environment variable ``JAXCONV_ONEDNN`` decides instead: "yes", "no", or "check", which checks again.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from jaxconv.ops.lowering.problem import Geometry, Problem, others

# Those in which tests/ops/lowering/test_onednn.py and test_forms.py pass.
VERSIONS = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0.1")
VARIABLE = "JAXCONV_ONEDNN"
# Seconds after which a child process that has not answered is ended. It takes about 5.
LIMIT = 60
_ONE_AT_A_TIME = threading.Lock()


class Verdict(NamedTuple):
    """Whether oneDNN may be called, and if not, why: a clause that follows "oneDNN is not called, since"."""

    good: bool
    why: str = ""


def verdict() -> Verdict:
    """Returns whether this process may call oneDNN; the first call may start a child process.

    Raises:
      ValueError: the environment variable ``JAXCONV_ONEDNN`` has an unknown value.
    """
    with _ONE_AT_A_TIME:
        return _verdict(os.environ.get(VARIABLE, ""), jaxlib.version.__version__)


@functools.cache
def _verdict(wanted: str, version: str) -> Verdict:
    if wanted not in ("", "yes", "no", "check"):
        raise ValueError(f"{VARIABLE} must be 'yes', 'no', 'check' or not set, got {wanted!r}")
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return Verdict(False, "jaxlib carries it on Linux and x86-64 only")
    if wanted == "no":
        return Verdict(False, f"{VARIABLE}=no is set")
    if wanted == "yes" or (version in VERSIONS and wanted != "check"):
        return Verdict(True)
    found = _checked(version, again=wanted == "check")
    if not found.good:
        warn(found.why)
    return found


@functools.cache
def warn(why: str) -> None:
    """Warns, once a process for each reason, that oneDNN is left out on a platform that has it."""
    warnings.warn(
        f"jaxconv calls no oneDNN in this process, so convolutions on CPU are slower, since {why}. "
        f"{VARIABLE}=no accepts this; {VARIABLE}=check checks this jaxlib again.",
        stacklevel=2,
    )


def _checked(version: str, again: bool) -> Verdict:
    """Reads the stored verdict, or runs the check and stores its verdict."""
    try:
        folder = _folder()
        path = folder / f"onednn-{version}-{_processor()}.json"
        stored = None if again else _read(path)
        if stored is None:
            stored = _run(version)
            _write(path, stored)
    except OSError as error:
        return Verdict(False, f"jaxlib {version} is unknown and its check cannot run: {error}")
    return stored


def _folder() -> Path:
    """Makes and returns the folder of the verdicts."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(base) / "jaxconv"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> str:
    """Returns a few letters that distinguish processors, by their model and instruction sets."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _read(path: Path) -> Verdict | None:
    """Reads a stored verdict; one that cannot be read is named in a warning and made again."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        good, why = (json.loads(text)[name] for name in ("good", "why"))
        if isinstance(good, bool) and isinstance(why, str):
            return Verdict(good, why)
    message = f"{path} must hold the verdict of jaxconv's check of oneDNN, got {text[:60]!r}: it is made again"
    warnings.warn(message, stacklevel=2)
    return None


def _write(path: Path, found: Verdict) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(found._asdict(), file)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _run(version: str) -> Verdict:
    """Runs `main` in a child process, which may end in any way.

    Raises:
      OSError: a child process cannot be started.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        raise OSError("there is no Python interpreter to run it in")
    here = {VARIABLE: "yes", "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    unwanted = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_X64", "JAX_DISABLE_JIT")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted} | here
    try:
        child = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import main; main()"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Verdict(False, f"jaxlib {version} is unknown and its check did not end within {LIMIT} s")
    last = (child.stdout.strip().splitlines() or ["nothing"])[-1]
    if child.returncode == 0 and last == "good":
        return Verdict(True)
    ended = f"printed {last[:200]!r}" if child.returncode == 0 else f"ended with exit status {child.returncode}"
    return Verdict(False, f"jaxlib {version} is unknown and its check {ended}")


# ---------------------------------------------------------------------------------------------------------------------
# What the child process computes: size, window, stride, padding, dilation, groups, batch, channels, features.
_CASES = (
    ((8, 9), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1, 8, 6, 5),
    ((7, 8), (2, 3), (2, 1), ((0, 1), (1, 0)), (1, 1), 1, 2, 16, 16),
    ((9, 9), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1, 3, 3, 8),
    ((5, 6), (3, 3), (1, 1), ((3, 3), (3, 3)), (3, 3), 1, 2, 4, 7),
    ((6, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4, 2, 8, 12),
    ((8, 8), (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1), 2, 2, 6, 4),
    ((8, 7), (5, 3), (1, 1), ((2, 2), (1, 1)), (1, 1), 6, 3, 6, 6),
    ((8, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 6, 2, 6, 12),
    ((4, 4), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, 2, 17, 3),
    ((3, 3), (3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, 1, 33, 1),
    ((1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1, 1, 1, 1),
    ((33,), (9,), (1,), ((4, 4),), (1,), 1, 2, 3, 8),
    ((20,), (4,), (2,), ((1, 1),), (1,), 1, 4, 8, 8),
    ((11,), (3,), (1,), ((1, 1),), (1,), 6, 2, 6, 6),
    ((4, 6, 5), (3, 3, 3), (1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 1, 8, 2, 8),
    ((4, 6, 5), (3, 3, 3), (1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 6, 2, 6, 6),
)


def problems() -> list[Problem]:
    """Returns the convolutions that are checked, in all their roles, of those for which oneDNN is called."""
    from jaxconv.ops.lowering import onednn

    made = []
    for size, window, stride, padding, dilation, groups, batch, channels, features in _CASES:
        for role in ("output", "input", "kernel"):
            geometry = Geometry(size, window, stride, padding, dilation, groups)
            made.append(Problem(role, geometry, batch, channels, features, jnp.dtype(jnp.float32)))
    return [p for p in made if onednn.fits(p)]


def largest_difference(found: list[Problem]) -> float:
    """Computes the problems by oneDNN and by lax; returns the largest difference, relative to the largest value."""
    from jaxconv.ops.lowering.cpu import CPU
    from jaxconv.ops.lowering.table import Solver
    from jaxconv.ops.lowering.target import Target

    rng = np.random.default_rng(0)
    pairs = [[rng.normal(size=p.shape(name)).astype(np.float32) for name in others(p.role)] for p in found]
    target = Target(CPU, onednn=True)
    solvers = Solver(target, ("gemm", "onednn")), Solver(target, "xla")

    @jax.jit
    def both(pairs: Any) -> Any:
        plain = [[solve(p, a, b) for solve in solvers] for p, (a, b) in zip(found, pairs, strict=True)]
        return plain + [_with_epilogue(p, a, b) for p, (a, b) in zip(found, pairs, strict=True) if p.role == "output"]

    worst = 0.0
    for got, want in both(pairs):
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        difference = np.max(np.abs(got - want)) / np.max(np.abs(want))
        worst = max(worst, float(difference) if np.isfinite(difference) else np.inf)
    return worst


def _with_epilogue(p: Problem, x: Any, kernel: Any) -> tuple[Any, Any]:
    """Returns a convolution with all that may follow it within its call, and the same by lax."""
    from jaxconv.ops.lowering import onednn, xla
    from jaxconv.ops.lowering.fused import ACTIVATIONS

    y = xla.xla(p, x, kernel)
    bias, added = jnp.linspace(-1, 1, p.features), jnp.cos(y)
    pairs = [
        (onednn.with_epilogue(p, x, kernel, [bias, added], ["BIAS", "BINARY_ADD", name]), function(y + bias + added))
        for function, name in ACTIVATIONS.values()
    ]
    got, want = zip(*pairs, strict=True)
    return jnp.stack(got), jnp.stack(want)


def main() -> None:
    """Prints "good" where all problems agree to rounding, else the largest difference."""
    worst = largest_difference(problems())
    print("good" if worst < 1e-5 else f"a largest relative difference of {worst:.2g}")
