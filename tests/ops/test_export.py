"""Exports with symbolic batch, height and width: written, read back, and called at two sizes."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import export

import jaxconv as jc
from tests.ops.compare import assert_close
from tests.ops.draws import uniform

KERNEL = jnp.asarray(uniform(1, (3, 3, 4, 4)), jnp.float32)
DEPTHWISE = jnp.asarray(uniform(2, (3, 3, 1, 4)), jnp.float32)


def case(op, *args, **options):
    return pytest.param(
        functools.partial(lambda x: op(x, *args, **options)), id=f"{op.__name__} {options or args}"[:60]
    )


def gradient(op, *args, **options):
    def of_sines(x):
        return jax.grad(lambda x: jnp.sum(jnp.sin(op(x, *args, **options))))(x)

    return pytest.param(of_sines, id=f"gradient {op.__name__} {options}"[:60])


def conv(x, **options):
    return jc.conv(x, KERNEL, **options)


def depthwise(x, **options):
    return jc.conv(x, DEPTHWISE, groups=4, **options)


def conv_transpose(x, **options):
    return jc.conv_transpose(x, KERNEL, **options)


def lax_signature(x):
    return jc.conv_general_dilated(x, KERNEL, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def batch_norm(x):
    return jc.batch_norm(x, *jc.batch_statistics(x))


def twice(x, **options):
    """To sizes that are themselves symbolic."""
    return jc.resize(x, tuple(2 * n for n in x.shape[1:3]), **options)


CASES = [
    *(case(conv, stride=2, padding=p) for p in ("SAME", "VALID", 1)),
    case(conv),
    case(conv, stride=3, padding="SAME_LOWER"),
    *(case(conv, stride=2, pad_mode=mode) for mode in ("reflect", "edge", "circular")),
    case(conv, dilation=2),
    case(depthwise, stride=2),
    *(case(conv_transpose, stride=2, padding=p) for p in ("SAME", 1)),
    case(lax_signature),
    *(case(pool, 3, stride=2, padding=1) for pool in (jc.max_pool, jc.avg_pool, jc.lp_pool)),
    *(case(pool, 2) for pool in (jc.max_pool, jc.avg_pool)),
    *(case(pool, 3, stride=2, padding="SAME") for pool in (jc.max_pool, jc.avg_pool)),
    *(case(pool, 3, stride=2, padding=1, ceil_mode=True) for pool in (jc.max_pool, jc.avg_pool)),
    case(jc.avg_pool, 3, stride=1, padding=1, count_include_pad=False),
    *(case(pool) for pool in (jc.global_avg_pool, jc.global_max_pool, jc.global_lp_pool, jc.global_gem_pool)),
    *(case(pool, size) for pool in (jc.adaptive_avg_pool, jc.adaptive_max_pool) for size in (1, (3, 2))),
    *(case(jc.resize, 11, method=m) for m in ("nearest", "nearest_exact", "bilinear", "bicubic", "area")),
    case(jc.resize, 5, method="bicubic", antialias=True),
    case(jc.resize, 11, align_corners=True),
    *(case(twice, method=m) for m in ("nearest", "bilinear")),
    case(jc.pad, 1, mode="reflect"),
    case(jc.pixel_shuffle, 2),
    case(jc.group_norm, 2),
    case(batch_norm),
    case(jc.local_response_norm, 3),
    case(jc.unit_norm),
    gradient(conv, stride=2),
    gradient(jc.resize, 5, method="bicubic", antialias=True),
    gradient(jc.adaptive_avg_pool, 3),
    gradient(jc.global_max_pool),
    gradient(jc.avg_pool, 3, stride=2, padding=1),
]


def exported(function, channels):
    """Written and read back."""
    shape = export.symbolic_shape(f"n, h, w, {channels}", constraints=["h >= 4", "w >= 4"])
    return export.deserialize(export.export(jax.jit(function))(jax.ShapeDtypeStruct(shape, jnp.float32)).serialize())


SLOW = [
    case(jc.resize, 5, method="bilinear", antialias=True),
    case(twice, method="bicubic"),
    gradient(jc.resize, 11),
]


@pytest.mark.parametrize(
    "function", [*CASES, *(pytest.param(*row.values, id=row.id, marks=pytest.mark.slow) for row in SLOW)]
)
def test_symbolic_batch_height_and_width(function):
    program = exported(function, 4)
    for seed, shape in enumerate([(2, 8, 9, 4), (1, 11, 6, 4)]):
        x = jnp.asarray(uniform(seed, shape), jnp.float32)
        got, want = program.call(x), jax.jit(function)(x)
        assert got.shape == want.shape
        assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_network_whose_pool_fixes_the_size():
    net = jc.serial(
        jc.Conv(4, 3, stride=2), jc.BatchNorm(), jax.nn.relu, jc.AdaptiveAvgPool(2), jc.Flatten(), jc.Dense(3)
    )
    params, state = net.init(jax.random.key(0), (1, 8, 8, 2))
    program = exported(lambda x: net.apply(params, state, x)[0], 2)
    for shape in [(2, 8, 9, 2), (1, 11, 6, 2)]:
        x = jnp.asarray(uniform(1, shape), jnp.float32)
        assert_close(program.call(x), net.apply(params, state, x)[0], rtol=1e-4, atol=1e-5)


def test_a_dense_layer_over_symbolic_sizes_is_refused_once():
    net = jc.serial(jc.Flatten(), jc.Dense(3))
    params, state = net.init(jax.random.key(0), (1, 4, 4, 2))
    with pytest.raises(jc.ShapeError, match="a size that is not a number: a global or an adaptive pool") as error:
        exported(lambda x: net.apply(params, state, x)[0], 2)
    assert str(error.value).startswith("1 (Dense): kernel (32, 3) takes 32 inputs")


def test_what_is_known_of_symbolic_sizes_is_still_checked():
    x = jax.ShapeDtypeStruct(export.symbolic_shape("n, h, w, 4", constraints=["h <= 8"]), jnp.float32)
    with pytest.raises(jc.ShapeError, match="window must be at most the padded input"):
        export.export(jax.jit(lambda x: jc.max_pool(x, 9)))(x)
