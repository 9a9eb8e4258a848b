"""The table of choices: what it chooses for well-known layers, who may name a platform, and what a mode changes."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.ops.lowering import table
from jaxconv.ops.lowering.forms import FORMS, NAMES, POOLS, PRODUCTS
from jaxconv.ops.lowering.problem import Geometry, Problem
from tests.ops.lowering.targets import ON_CPU, ON_CUDA, WITH_ONEDNN, chosen
from tests.ops.transforms import quick_jit

PACKAGE = Path(jc.__file__).parent
# Files that may hold a platform's name: its own, the list of platforms, and the environment of a child process.
NAMED = {
    "ops/lowering/cpu.py": {"cpu"},
    "ops/lowering/cuda.py": {"cuda", "gpu"},
    "ops/lowering/table.py": {"rocm", "tpu"},
    "ops/lowering/onednn_check.py": {"cpu"},
}


def test_only_its_own_file_names_a_platform():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        constants = (n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant))
        if names := {"cpu", "cuda", "gpu", "rocm", "tpu"} & {value for value in constants if isinstance(value, str)}:
            found[path.relative_to(PACKAGE).as_posix()] = names
    assert found == NAMED


# Batch, size, window, stride, padding, dilation, groups, channels, features; and the forms of output, input and kernel:
# on the CPU with oneDNN, on the CPU without, on CUDA.
LAYERS = {
    "ResNet's stem": (
        (8, (224, 224), 7, 2, 3, 1, 1, 3, 64),
        ("onednn", "space_to_depth > onednn", "onednn"),
        ("xla", "space_to_depth > flipped_conv > xla", "xla_prelayout"),
        ("space_to_depth > xla", "space_to_depth > xla", "space_to_depth > xla"),
    ),
    "3x3": (
        (8, (56, 56), 3, 1, 1, 1, 1, 64, 64),
        ("onednn", "onednn", "onednn"),
        ("xla_extra_row", "flipped_conv > xla_extra_row", "split_im2col > xla"),
        ("xla", "xla", "xla"),
    ),
    "3x3, strided": (
        (8, (56, 56), 3, 2, 1, 1, 1, 128, 128),
        ("onednn", "polyphase > onednn > gemm > onednn", "onednn"),
        ("xla", "polyphase > flipped_conv > xla > gemm > xla", "split_im2col > xla"),
        ("xla", "xla", "xla"),
    ),
    "1x1": (
        (8, (56, 56), 1, 1, 0, 1, 1, 256, 64),
        ("gemm > onednn", "gemm > onednn", "gemm > onednn"),
        ("gemm > xla", "gemm > xla", "gemm > xla"),
        ("xla", "xla", "xla"),
    ),
    "1x1, strided": (
        (8, (56, 56), 1, 2, 0, 1, 1, 256, 512),
        ("onednn", "polyphase > gemm > onednn", "gemm > onednn"),
        ("gemm > xla", "polyphase > gemm > xla", "gemm > xla"),
        ("xla", "xla", "xla"),
    ),
    "depthwise 3x3": (
        (8, (56, 56), 3, 1, 1, 1, 144, 144, 144),
        ("onednn", "onednn", "onednn"),
        ("shift_add", "flipped_conv > shift_add", "shift_add"),
        ("xla", "xla", "xla"),
    ),
    "depthwise 3x3, strided": (
        (8, (112, 112), 3, 2, 1, 1, 96, 96, 96),
        ("onednn", "polyphase > flipped_conv > shift_add", "depthwise_space_to_depth > onednn"),
        ("polyphase > shift_add", "polyphase > flipped_conv > shift_add", "shift_add"),
        ("xla", "polyphase > flipped_conv > shift_add", "xla"),
    ),
    "depthwise 7x7": (
        (8, (56, 56), 7, 1, 3, 1, 96, 96, 96),
        ("onednn", "onednn", "onednn"),
        ("shift_add", "flipped_conv > shift_add", "shift_add"),
        ("xla", "xla", "tap_reduce"),
    ),
    "32 groups": (
        (8, (28, 28), 3, 1, 1, 1, 32, 256, 256),
        ("onednn", "onednn", "onednn"),
        ("block_diagonal > xla", "flipped_conv > block_diagonal > xla", "block_diagonal > split_im2col > xla"),
        ("xla", "xla", "xla"),
    ),
    "dilated": (
        (8, (64, 64), 3, 1, 4, 4, 1, 32, 32),
        ("onednn", "onednn", "onednn"),
        ("xla_extra_row", "flipped_conv > xla_extra_row", "split_im2col > xla"),
        ("xla", "xla", "gemm_per_tap > xla"),
    ),
    "patches": (
        (8, (224, 224), 4, 4, 0, 1, 1, 3, 96),
        ("onednn", "space_to_depth > gemm > onednn", "space_to_depth > gemm > onednn"),
        ("space_to_depth > gemm > xla", "space_to_depth > gemm > xla", "space_to_depth > gemm > xla"),
        ("space_to_depth > gemm > xla", "space_to_depth > gemm > xla", "space_to_depth > gemm > xla"),
    ),
    "digits": (
        (256, (28, 28), 5, 1, 2, 1, 1, 1, 6),
        ("onednn", "onednn", "per_slice > toeplitz_gemm > onednn"),
        ("shift_add", "flipped_conv > xla", "per_slice > toeplitz_gemm > xla"),
        ("xla", "xla", "xla"),
    ),
    "a line": (
        (8, (4096,), 9, 1, 4, 1, 1, 1, 32),
        ("onednn", "onednn", "xla_prelayout"),
        ("shift_add", "flipped_conv > xla", "xla_prelayout"),
        ("xla", "xla", "xla"),
    ),
    "3-D": (
        (2, (16, 28, 28), 3, 1, 1, 1, 1, 32, 32),
        ("onednn", "onednn", "onednn"),
        (
            "per_example > per_slice > xla_extra_row",
            "flipped_conv > per_example > per_slice > xla_extra_row",
            "per_example > per_slice > split_im2col > xla",
        ),
        ("xla", "xla", "xla"),
    ),
}


def layer(numbers, role):
    batch, size, window, stride, padding, dilation, groups, channels, features = numbers
    rank = len(size)
    geometry = Geometry(
        size, (window,) * rank, (stride,) * rank, ((padding, padding),) * rank, (dilation,) * rank, groups
    )
    return Problem(role, geometry, batch, channels, features, jnp.dtype(jnp.float32))


@pytest.mark.parametrize("name", LAYERS)
def test_the_choices_for_well_known_layers(name):
    """As measured: a change of a row that moves one of these needs a new measurement."""
    numbers, *forms = LAYERS[name]
    for target, wanted in zip((WITH_ONEDNN, ON_CPU, ON_CUDA), forms, strict=True):
        assert tuple(chosen(layer(numbers, role), target) for role in ("output", "input", "kernel")) == wanted


def ops(x, k, d):
    """All that a mode may change, with the gradients."""
    y = jc.conv(jc.conv(x, k, stride=2), k[:1, :1])
    y = jc.conv(y, d, groups=4) + jc.avg_pool(y, 3, stride=1, padding=1)
    return jnp.sum(jc.max_pool(y, 2)) + jnp.sum(jc.max_pool(y, (9, 1), stride=1)) + jnp.sum(jc.avg_pool(y, 2))


ARRAYS = jnp.ones((2, 20, 20, 4)), jnp.ones((3, 3, 4, 4)), jnp.ones((3, 3, 1, 4))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_explain_shows_is_accepted(name):
    """A form that has a program for a problem is chosen for it."""
    with jc.lowering((name,)):
        rows = jc.explain(jax.grad(ops, (0, 1, 2)), *ARRAYS, platform="cpu")
    # Not in these ops: an ensemble, and the gradient of a strided depthwise kernel.
    assert any(name in row.form.split(" > ") for row in rows) or name in ("per_member", "depthwise_space_to_depth")
    shown = {part for row in rows for part in row.form.split(" > ")}
    assert shown <= set(NAMES)


@pytest.mark.parametrize("name", POOLS)
def test_a_pool_by_name_has_the_same_values(name):
    x = jnp.asarray(np.random.default_rng(0).permutation(9 * 6).reshape(1, 9, 6, 1), jnp.float32)

    def values(x):
        pool = jc.max_pool if name.endswith("max") else jc.avg_pool
        y, back = jax.vjp(lambda x: (pool(x, (3, 2)), pool(x, (2, 9), stride=1, padding=((0, 0), (4, 4)))), x)
        return y, back(jax.tree.map(jnp.cos, y))

    want = quick_jit(values)(x)
    with jc.lowering((name,)):
        assert any(row.form == name for row in jc.explain(values, x, platform="cpu"))
        got = quick_jit(values)(x)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_a_name_without_a_program_falls_back_to_xla():
    with jc.lowering(("broadcast",)):
        (row,) = jc.explain(jc.conv, *ARRAYS[:2], platform="cpu")
    assert row.form == "xla"
    assert row.why.startswith("None of the algorithms that the lowering mode names has a program for this problem.")


def test_a_name_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="lowering must be") as error:
        jc.lowering(("nonsense",))
    assert all(name in str(error.value) for name in (*FORMS, *PRODUCTS, *POOLS))


@pytest.mark.parametrize("platform", table.PLATFORMS)
def test_every_pool_has_a_program_on_every_platform(platform):
    for mode in ("auto", "xla", "exact", "portable", ("xla",), ("broadcast",)):
        with jc.lowering(mode):
            rows = jc.explain(jax.grad(lambda x: ops(x, *ARRAYS[1:])), ARRAYS[0], platform=platform or "tpu")
        assert rows
