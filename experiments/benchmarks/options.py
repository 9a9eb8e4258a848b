"""The compiler options that a user of plain `jax.lax` can set: the baseline "lax, options" uses the fastest of them.

From jaxlib 0.12 on, XLA:CPU can rewrite `lax` convolutions into calls of oneDNN, where it does not pass them to
YNNPACK. docs/speed.md says which convolutions it rewrites.
"""

from typing import Any

import jax

from jaxconv.compiler import _known
from jaxconv.ops.lowering.cpu import CPU, YNNPACK

ONEDNN = "xla_cpu_experimental_onednn_custom_call"
SETS: dict[str, dict[str, Any]] = {"jaxconv.jit": CPU.options, "oneDNN": {ONEDNN: True, YNNPACK: ""}}


def option_sets() -> dict[str, dict[str, Any]]:
    """Returns the sets of options that this jaxlib has on the default backend, by name; on an accelerator none."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: options for name, options in SETS.items() if all(map(_known, options, options.values()))}
