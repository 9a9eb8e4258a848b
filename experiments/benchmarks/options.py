"""The compiler options that a user of plain `jax.lax` can set: the baseline "lax, options" uses the fastest of them.

    python -m experiments.benchmarks.options      # prints what jaxlib 0.12 and newer do with the option for oneDNN

From jaxlib 0.12 on, XLA:CPU can rewrite `lax` convolutions into calls of oneDNN, where it does not pass them to
YNNPACK. docs/speed.md says which convolutions it rewrites.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import jaxconv as jc
from jaxconv.compiler import _known
from jaxconv.ops.lowering.cpu import CPU, YNNPACK

ONEDNN = "xla_cpu_experimental_onednn_custom_call"
SETS: dict[str, dict[str, Any]] = {"jaxconv.jit": CPU.options, "oneDNN": {ONEDNN: True, YNNPACK: ""}}

# Size, window, channels, features, and options of `jax.lax.conv_general_dilated`.
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int, dict[str, Any]]] = {
    "dense": ((14, 14), (3, 3), 32, 32, {}),
    "grouped": ((14, 14), (3, 3), 32, 32, {"feature_group_count": 4}),
    "depthwise": ((14, 14), (3, 3), 32, 32, {"feature_group_count": 32}),
    "strided": ((14, 14), (3, 3), 32, 32, {"window_strides": (2, 2)}),
    "dilated": ((14, 14), (3, 3), 32, 32, {"rhs_dilation": (2, 2)}),
    "1-D": ((64,), (3,), 32, 32, {}),
    "3-D": ((6, 6, 6), (3, 3, 3), 32, 32, {}),
    "negative padding": ((14, 14), (3, 3), 32, 32, {"padding": ((-1, -1), (-1, -1))}),
}


def option_sets() -> dict[str, dict[str, Any]]:
    """Returns the sets of options that this jaxlib has on the default backend, by name; on an accelerator none."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: options for name, options in SETS.items() if all(map(_known, options, options.values()))}


def convolution(rank: int, options: dict[str, Any]) -> Callable[..., jax.Array]:
    """Returns a convolution of `jax.lax` with channels last."""
    letters = "DHW"[-rank:]
    given = {"window_strides": (1,) * rank, "padding": "SAME"} | options
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return functools.partial(jax.lax.conv_general_dilated, dimension_numbers=numbers, **given)


def roles(case: str, dtype: Any, batch: int = 8) -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    """Yields the output and the two gradients of a case: a name, a function, and its arrays."""
    size, window, channels, features, options = CASES[case]
    conv = convolution(len(size), options)
    x = jnp.ones((batch, *size, channels), dtype)
    k = jnp.ones((*window, channels // options.get("feature_group_count", 1), features), dtype)
    y = jax.eval_shape(conv, x, k)
    dy = jnp.ones(y.shape, y.dtype)
    yield "output", conv, (x, k)
    yield "gradient of the input", lambda dy, k: jax.vjp(lambda x: conv(x, k), x)[1](dy)[0], (dy, k)
    yield "gradient of the kernel", lambda x, dy: jax.vjp(lambda k: conv(x, k), k)[1](dy)[0], (x, dy)


def calls_onednn(function: Callable[..., Any], arrays: tuple[Any, ...]) -> bool:
    """Returns whether XLA compiles a function to a program with a call of oneDNN, with the options for it."""
    compiled = jax.jit(function, compiler_options=SETS["oneDNN"]).lower(*arrays).compile()
    return "__onednn$" in (compiled.as_text() or "")


def error_of_a_long_sum(jit: Callable[..., Any], conv: Callable[..., jax.Array]) -> float:
    """Returns the relative error of the gradient of a kernel, at the tap that sees 64^3 equal products."""
    x, k = jnp.full((64, 64, 64, 16), 0.1, jnp.float32), jnp.ones((3, 3, 16, 16), jnp.float32)
    gradient = jit(lambda k: jax.vjp(lambda k: conv(x, k), k)[1](x)[0])(k)
    exact = 64**3 * float(jnp.float32(0.1)) ** 2
    return abs(float(gradient[1, 1, 0, 0]) / exact - 1)


def main() -> None:
    if "oneDNN" not in option_sets():
        raise SystemExit("this jaxlib has no option for oneDNN on the default backend")
    print("| convolution | output | gradient of the input | gradient of the kernel |\n|---|---|---|---|")
    kinds = [(case, jnp.float32, 8) for case in CASES] + [("dense", jnp.float32, 0)]
    kinds += [("dense", dtype, 8) for dtype in (jnp.bfloat16, jnp.float16, jnp.float64)]
    for case, dtype, batch in kinds:
        with jax.enable_x64(dtype == jnp.float64):
            found = ["yes" if calls_onednn(f, arrays) else "no" for _, f, arrays in roles(case, dtype, batch)]
        print(f"| {case}, {jnp.dtype(dtype)}{', an empty batch' * (batch == 0)} | {' | '.join(found)} |")
    print("\nrelative error of the gradient of a 3x3 kernel over 262,144 equal products, 64x64x64x16:")
    lax = convolution(2, {})
    for name, jit, conv in (
        ("lax", jax.jit, lax),
        ("lax, options", functools.partial(jax.jit, compiler_options=SETS["oneDNN"]), lax),
        ("jaxconv", jax.jit, jc.conv),
    ):
        print(f"- {name}: {error_of_a_long_sum(jit, conv):.1e}")


if __name__ == "__main__":
    main()
