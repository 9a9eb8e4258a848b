"""Ops that the compiler divides over the devices of a mesh: the values of one device, and what is sent."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from jaxconv.ops.lowering import onednn
from tests.ops import mesh_cases
from tests.ops.compare import assert_close
from tests.ops.draws import uniform

ROOT = Path(__file__).parents[2]


def on_eight_devices(job, **environment):
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-m", "tests.ops.mesh_cases", job]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=1200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(rows, cases):
    """The values and gradients of one device."""
    assert {row["case"] for row in rows} == set(cases)
    assert not [row for row in rows if not row["off"] < 1e-4]


# One test each, so that workers of pytest-xdist do not run the same job.


def test_examples_rows_and_channels_over_devices():
    check(on_eight_devices("several"), mesh_cases.RULED)


@pytest.mark.slow
def test_examples_rows_and_channels_over_devices_where_xla_divides():
    check(on_eight_devices("plain"), mesh_cases.PLAIN)


@pytest.mark.slow
def test_each_axis_over_2_4_and_8_devices():
    check(on_eight_devices("each"), mesh_cases.CASES)


def test_what_devices_send():
    """Examples over devices: a kernel's gradient is summed, nothing else is sent. Rows: to neighbors."""
    rows = on_eight_devices("texts")
    assert len(rows) == 4 * len(mesh_cases.TEXTS)
    for row in rows:
        kernels = int(row["what"] == "gradients" and "pool" not in row["case"])
        assert (row["all-gather"], row["all-to-all"], row["all-reduce"]) == (0, 0, kernels), row
        sent = row["divided"] == "rows" and row["case"] != "avg_pool"
        assert (row["collective-permute"] > 0) == sent, row
        if onednn.carried() and "pool" not in row["case"]:
            # Each computes by the fast form; a kernel's gradient of a few examples may be another than oneDNN's.
            assert row["calls"] >= (2 if row["what"] == "gradients" else 1), row


def test_jaxs_cache_on_disk_knows_programs_apart_and_again(tmp_path):
    flags = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    kept = []
    for _ in range(2):
        assert all(row["off"] < 1e-5 for row in on_eight_devices("disk", **flags))
        kept.append(sorted(path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")))
    assert kept[0]
    assert kept[1] == kept[0]


# ---------------------------------------------------------------------------------------------------------------------
# In this process, which has four devices

IMAGES, KERNEL = uniform(1, (4, 8, 8, 4)).astype(np.float32), uniform(2, (3, 3, 4, 4)).astype(np.float32)


def loss(x, k):
    return jnp.sum(jnp.sin(jc.max_pool(jax.nn.relu(jc.conv(x, k, stride=2)), 2, stride=1, padding=((1, 0), (0, 0)))))


both = jax.value_and_grad(loss, (0, 1))


def assert_same(got, want):
    jax.tree.map(assert_close, got, want)


def placed(a, *spec, shape=(4,), names=("a",)):
    mesh = Mesh(np.array(jax.devices()[: int(np.prod(shape))]).reshape(shape), names)
    return jax.device_put(a, NamedSharding(mesh, P(*spec)))


@pytest.mark.parametrize(
    "spec",
    [("a", "b"), ("b", "a"), (None, ("a", "b")), (None, ("b", "a")), ("a", None, "b"), (("b", "a"),)],
    ids=str,
)
def test_meshes_of_several_axes(spec):
    x = placed(IMAGES, *spec, shape=(2, 2), names=("a", "b"))
    assert_same(jax.jit(both)(x, KERNEL), jax.jit(both)(IMAGES, KERNEL))


@pytest.mark.parametrize("shape", [(3, 1), (1, 3)])
def test_a_number_of_devices_that_is_no_power_of_two(shape):
    x = placed(uniform(3, (3, 6, 9, 4)).astype(np.float32), "a", "b", shape=shape, names=("a", "b"))
    assert_same(jax.jit(both)(x, KERNEL), jax.jit(both)(np.asarray(x), KERNEL))


def test_an_axis_for_examples_and_for_features_gathers_the_kernel():
    """As for parameters that are divided over the devices that divide the examples."""
    x, k = placed(IMAGES, "a"), placed(KERNEL, None, None, None, "a")
    text = jax.jit(both).lower(x, k).compile().as_text()
    assert "f32[4,8,8,4]" not in text
    assert_same(jax.jit(both)(x, k), jax.jit(both)(IMAGES, KERNEL))


@pytest.mark.parametrize("spec", [("a",), (None, "a")], ids=["examples", "rows"])
def test_transformations_on_a_mesh(spec):
    x, k = placed(IMAGES, *spec), placed(KERNEL)
    want = jax.jit(both)(IMAGES, KERNEL)
    assert_same(both(x, k), want)
    exported = jax.export.deserialize(jax.export.export(jax.jit(both))(x, k).serialize())
    assert_same(jax.jit(exported.call)(x, k), want)
    looped = jax.jit(lambda x, k: jax.lax.scan(lambda sums, _: (sums + loss(x, k), None), 0.0, length=3)[0])
    assert_close(looped(x, k), 3 * want[0])
    second = jax.grad(lambda k, x: jnp.sum(jax.checkpoint(both)(x, k)[1][1] ** 2))
    assert_close(jax.jit(second)(k, x), jax.jit(second)(KERNEL, IMAGES))
    lanes = jax.jit(jax.vmap(both, (None, 0)))(x, jnp.stack([k, 2 * k]))
    assert_same(jax.tree.map(lambda a: a[0], lanes), want)


def test_members_of_an_ensemble_over_devices():
    x, k = (placed(np.stack([a, 2 * a, -a, a]), "a") for a in (IMAGES, KERNEL))
    run = jax.jit(jax.vmap(both))
    text = run.lower(x, k).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "collective-permute"))
    assert_same(run(x, k), run(np.asarray(x), np.asarray(k)))


def test_a_shard_map_over_some_axes_leaves_the_others_to_the_compiler():
    x = placed(IMAGES, "a", "b", shape=(2, 2), names=("a", "b"))
    local = jax.shard_map(
        lambda x, k: both(x, k)[1][0],
        mesh=x.sharding.mesh,
        in_specs=(P("a"), P()),
        out_specs=P("a"),
        axis_names={"a"},
        check_vma=False,
    )
    assert_close(jax.jit(local)(x, KERNEL), jax.jit(both)(IMAGES, KERNEL)[1][0])


def test_nothing_not_finite_leaves_the_rows_that_see_it():
    """Neighbors that do not exist send zeros, not what is in memory."""
    x = IMAGES.copy()
    x[0, 7, 0, 0] = np.nan
    run = jax.jit(lambda x, k: jax.vjp(lambda x, k: jc.conv(x, k, stride=2, padding="VALID"), x, k)[0])
    np.testing.assert_array_equal(np.isnan(run(placed(x, None, "a"), KERNEL)), np.isnan(run(x, KERNEL)))
    assert not np.isnan(
        jax.jit(jax.grad(lambda k, x: jnp.sum(jc.conv(x, k, stride=2, padding="VALID"))))(KERNEL, placed(x, None, "a"))
    ).any()
