"""The choices for CUDA, run here: every row is taken, and gives the same values; half types stay half."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.ops.lowering.cuda import CUDA
from jaxconv.ops.lowering.problem import ROLES, Geometry, Problem
from tests.ops.lowering.targets import ON_CPU, ON_CUDA, chosen, solved
from tests.ops.lowering.test_forms import arrays_of, summed

# A problem as window, stride, low and high padding, dilation, groups, channels, features and type; and the forms of
# its output, its kernel's gradient and its input's.
PROBLEMS = {
    "depthwise": ((3, 1, 1, 1, 1, 4, 4, 4, "float32"), ("xla", "xla", "xla")),
    "depthwise strided": ((3, 2, 1, 1, 1, 4, 4, 4, "float32"), ("xla", "xla", "polyphase > flipped_conv > shift_add")),
    "depthwise strided half": ((3, 2, 1, 1, 1, 4, 4, 4, "bfloat16"), ("xla", "xla", "xla")),
    "depthwise uneven": (
        (3, 2, 0, 1, 1, 4, 4, 4, "float32"),
        ("shift_add", "xla", "polyphase > flipped_conv > shift_add"),
    ),
    "depthwise dilated": ((3, 1, 2, 2, 2, 4, 4, 4, "float32"), ("shift_add", "tap_reduce", "flipped_conv > shift_add")),
    "depthwise dilated half": (
        (3, 1, 2, 2, 2, 4, 4, 4, "bfloat16"),
        ("shift_add", "tap_reduce", "flipped_conv > shift_add"),
    ),
    "depthwise even": (
        (4, 2, 1, 1, 1, 4, 4, 4, "bfloat16"),
        ("shift_add", "tap_reduce", "polyphase > flipped_conv > shift_add"),
    ),
    "depthwise, two features": ((3, 1, 1, 1, 1, 4, 4, 8, "float32"), ("shift_add", "tap_reduce", "xla")),
    "grouped 1x1": ((1, 1, 0, 0, 1, 2, 6, 4, "float32"), ("per_group > gemm > xla",) * 3),
    "1x1": ((1, 1, 0, 0, 1, 1, 6, 4, "float32"), ("xla", "xla", "xla")),
    "depthwise 7x7": ((7, 1, 3, 3, 1, 4, 4, 4, "float32"), ("xla", "tap_reduce", "xla")),
    "depthwise 7x7 half": ((7, 1, 3, 3, 1, 4, 4, 4, "bfloat16"), ("xla", "xla", "xla")),
    "depthwise 7x7 strided": ((7, 2, 3, 3, 1, 4, 4, 4, "float32"), ("xla", "xla", "xla")),
    "1x1 half, small": ((1, 1, 0, 0, 1, 1, 6, 4, "bfloat16"), ("xla", "xla", "xla")),
    "few channels": ((7, 2, 3, 3, 1, 1, 3, 5, "float32"), ("space_to_depth > xla",) * 3),
    "few channels, small": ((3, 2, 1, 1, 1, 1, 3, 5, "float32"), ("xla", "xla", "space_to_depth > xla")),
    "few channels, small, half": ((3, 2, 1, 1, 1, 1, 3, 5, "bfloat16"), ("space_to_depth > xla",) * 3),
    "patches": ((4, 4, 0, 0, 1, 1, 3, 5, "bfloat16"), ("space_to_depth > gemm > xla",) * 3),
    "wide stride": ((8, 4, 2, 2, 1, 1, 6, 4, "float32"), ("space_to_depth > xla",) * 3),
    "side by side": ((2, 2, 0, 0, 1, 1, 6, 4, "float32"), ("xla", "xla", "xla")),
    "dilated": ((3, 1, 2, 2, 2, 1, 6, 4, "float32"), ("xla", "gemm_per_tap > xla", "xla")),
    "not reached": ((3, 3, 0, 0, 1, 1, 6, 4, "float32"), ("xla", "xla", "xla")),
}


def problem(numbers: tuple, role: str, rank: int = 2) -> Problem:
    f, s, low, high, d, groups, channels, features, dtype = numbers
    geometry = Geometry((13, 11, 9)[:rank], (f,) * rank, (s,) * rank, ((low, high),) * rank, (d,) * rank, groups)
    half = dtype != "float32"
    return Problem(role, geometry, 2, channels, features, jnp.dtype(dtype), half=half)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_choice_and_its_values(name, role):
    numbers, forms = PROBLEMS[name]
    p = problem(numbers, role)
    assert chosen(p, ON_CUDA) == forms[("output", "kernel", "input").index(role)]
    dtype = p.dtype
    arrays = arrays_of(p, dtype)
    want, magnitude = summed(p, *(np.asarray(a, np.float64) for a in arrays))
    got = np.asarray(jax.jit(solved("auto", p, ON_CUDA))(*arrays), np.float64)
    # Rounded once to the type, whatever the program sums in.
    bound = jnp.finfo(dtype).eps * np.abs(want) + 16 * jnp.finfo(jnp.float32).eps * magnitude
    assert np.all(np.abs(got - want) <= bound + 1e-30)


def test_3d_windows_side_by_side():
    numbers = (2, 2, 0, 0, 1, 1, 6, 4, "float32")
    assert [chosen(problem(numbers, role, rank=3), ON_CUDA) for role in ("output", "kernel", "input")] == [
        "space_to_depth > gemm > xla",
        "xla",
        "space_to_depth > gemm > xla",
    ]


# Larger than is computed here.
LARGE = (1, 1, 0, 0, 1, 1, 8192, 65536, "bfloat16")


def test_a_large_1x1_of_half_types_is_a_product():
    assert [chosen(problem(LARGE, role), ON_CUDA) for role in ("output", "kernel", "input")] == [
        "gemm > xla",
        "xla",
        "xla",
    ]


def test_every_row_is_taken():
    rows = set()
    ours = [row for row in CUDA.rows if row.form.problem is Problem]
    for numbers in (LARGE, *(numbers for numbers, _ in PROBLEMS.values())):
        for role in ROLES:
            for rank in (2, 3):
                p = problem(numbers, role, rank)
                rows.add(
                    next((i for i, row in enumerate(ours) if row.form.takes(p, ON_CUDA) and row.when(p, ON_CUDA)), None)
                )
    assert rows == {*range(len(ours)), None}


@pytest.mark.parametrize("role", ROLES)
def test_half_types_stay_half_where_the_library_sums_wide(role):
    """Elsewhere the sum is asked for in float32; XLA:GPU would widen the arrays for it."""
    x, k = jnp.ones((2, 8, 8, 16), jnp.bfloat16), jnp.ones((3, 3, 16, 16), jnp.bfloat16)
    with jc.lowering("portable"):
        y, back = jax.vjp(lambda x, k: jc.conv(x, k, bias=jnp.ones(16, jnp.bfloat16)), x, k)
        function = {"output": lambda: jc.conv(x, k), "input": lambda: back(y)[0], "kernel": lambda: back(y)[1]}[role]
        traced = jax.jit(function).trace()
        lowered = {p: traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda", "tpu")}
    types = {
        p: {line.rsplit("x", 1)[1].split(">")[0] for line in text.splitlines() if "stablehlo.convolution" in line}
        for p, text in lowered.items()
    }
    assert types == {"cpu": {"f32"}, "cuda": {"bf16"}, "tpu": {"f32"}}


def test_a_wider_result_that_is_asked_for_is_given():
    x, k = jnp.ones((1, 8, 8, 16), jnp.bfloat16), jnp.ones((3, 3, 16, 16), jnp.bfloat16)
    wide = jax.jit(lambda: jc.conv(x, k, preferred_element_type=jnp.float32))
    text = wide.trace().lower(lowering_platforms=("cuda",)).as_text()
    (line,) = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert line.endswith("xf32>")


def test_cuda_passes_over_what_windows_do_not_reach():
    """The copy of the rest is XLA:CPU's need alone: there a negative padding is not safe."""
    p = problem(PROBLEMS["not reached"][0], "kernel")
    texts = [jax.jit(solved("xla", p, target)).lower(*arrays_of(p)).as_text() for target in (ON_CUDA, ON_CPU)]
    assert ["stablehlo.pad" in text or "stablehlo.slice" in text for text in texts] == [False, True]
