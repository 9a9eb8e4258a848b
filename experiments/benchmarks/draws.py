"""CPU seconds to compile the initial weights of a kernel, drawn by JAX over its axes and by jaxconv along one.

    python -m experiments.benchmarks.draws            # writes results/draws.json, the entry of this jaxlib
    python -m experiments.benchmarks.draws --table

XLA:CPU takes long to compile random bits over several axes; `jaxconv.ops.draws` draws the same bits along one. Each
measurement is the first compilation of a program in this process, after one of another initializer; the bits are
compared. CPU seconds of the process, so that other programs on the machine matter little.
"""

import argparse
import functools
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import initializers

from experiments.report import environment, write_results
from jaxconv.ops.draws import drawn

RESULTS = Path(__file__).parent / "results" / "draws.json"
SHAPES = ((3, 3, 8, 12), (3, 3, 64, 64))
INITIALIZERS = ("he_uniform", "he_normal")


def compiled(draw: Callable[[Any], Any]) -> tuple[float, Any]:
    """Returns the CPU seconds of tracing and compiling, and what is drawn."""
    key = jax.random.key(0)
    start = time.process_time()
    program = jax.jit(draw).lower(key).compile()
    return time.process_time() - start, program(key)


def _drawn(initializer: Any, shape: tuple[int, ...], key: Any) -> Any:
    return drawn(initializer, key, shape, jnp.float32)


def measure(names: Sequence[str] = INITIALIZERS, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[dict[str, Any]]:
    """Returns the CPU seconds for each initializer and shape."""
    compiled(lambda key: jax.random.normal(key, (7,)))
    rows = []
    for name in names:
        initializer = getattr(initializers, name)()
        for shape in shapes:
            theirs = compiled(functools.partial(initializer, shape=shape, dtype=jnp.float32))
            ours = compiled(functools.partial(_drawn, initializer, shape))
            np.testing.assert_array_equal(ours[1], theirs[1])
            rows.append({"initializer": name, "shape": shape, "jax_seconds": theirs[0], "jaxconv_seconds": ours[0]})
            print(rows[-1], flush=True)
    return rows


def table(found: dict[str, Any]) -> str:
    """Returns a Markdown table, a column for each jaxlib."""
    head = [f"jaxlib {version}: JAX, jaxconv" for version in found]
    lines = [f"| initializer | kernel | {' | '.join(head)} |", "|---" * (len(head) + 2) + "|"]
    for i, row in enumerate(next(iter(found.values()))["rows"]):
        times = [one["rows"][i] for one in found.values()]
        cells = [f"{one['jax_seconds']:.2f} s, {one['jaxconv_seconds']:.2f} s" for one in times]
        lines.append(f"| {row['initializer']} | {'x'.join(map(str, row['shape']))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.draws")
    parser.add_argument("--table", action="store_true", help="print the table of the file, measure nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    if not options.table:
        found[importlib.metadata.version("jaxlib")] = {**environment(), "rows": measure()}
        found = dict(sorted(found.items()))
        write_results(options.out, found)
    print(table(found))


if __name__ == "__main__":
    main()
