"""What the devices of a mesh send in a training step, and how long checkpoints of divided arrays take.

    python -m experiments.benchmarks.scaling                # writes results/scaling.json
    python -m experiments.benchmarks.scaling --what saves   # only the checkpoints

Compiles the training step of ResNet-50 (SGD) and ConvNeXt-B (AdamW) for eight CPU devices, with whole parameters and
with parameters divided over "data", and counts the collectives of the compiled text and the bytes of their results.
They do not depend on the size of the batch. XLA:CPU has no reduce-scatter for them and compiles an all-reduce and a
slice; on GPU these two are one. docs/scaling.md is about the result.
"""

import argparse
import collections
import functools
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "scaling.json"
DEVICES = 8
# Assumed of H100 servers with eight cards: bytes a second that a card sends to others of its server (NVLink 4, 450e9)
# and of other servers (400 Gb/s a card), of which 80 % are reached; seconds that a small all-reduce takes in a server,
# and more for each doubling of the number of servers; images a second that a card trains on in bfloat16.
IN_SERVER, BETWEEN, LATENCY, DOUBLING = 0.8 * 450e9, 0.8 * 50e9, 15e-6, 5e-6
IMAGES = {"resnet50": 5300, "convnext_base": 1000}
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "f16": 2, "s8": 1, "u8": 1}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=["sent", "saves"], nargs="*", default=["sent", "saves"])
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if f"device_count={DEVICES}" not in os.environ.get("XLA_FLAGS", ""):
        # Before JAX is imported; what is compiled quickly sends the same.
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
        environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
        command = [sys.executable, "-m", "experiments.benchmarks.scaling", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | environment)

    from experiments.report import environment as described
    from experiments.report import write_results

    found = json.loads(options.out.read_text()) if options.out.exists() else {}
    found |= described()
    if "sent" in options.what:
        found["sent"] = []
        for name in ("resnet50", "convnext_base"):
            for shard_params in (None, "data"):
                found["sent"].append(sent(name, shard_params))
                print(found["sent"][-1], flush=True)
                write_results(options.out, found)
    found["expected"] = [expected(row, devices) for row in found["sent"] for devices in (8, 64, 256, 1024)]
    write_results(options.out, found)
    if "saves" in options.what:
        found["saves"] = saves()
        write_results(options.out, found)


def sent(name: str, shard_params: str | None) -> dict[str, Any]:
    """Returns what a step of a network sends."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxconv as jc
    from jaxconv.train import TrainState
    from jaxconv.train.mesh import Placement
    from jaxconv.train.step import raw_step

    net = getattr(jc.models, name)()
    optimizer = optax.sgd(0.1, momentum=0.9) if name == "resnet50" else optax.adamw(1e-3)
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    placement = Placement(mesh, shard_params)
    loss = optax.softmax_cross_entropy_with_integer_labels
    step = raw_step(net, loss, optimizer, placement=placement)
    x = jax.ShapeDtypeStruct((DEVICES, 224, 224, 3), jnp.float32, sharding=jax.NamedSharding(mesh, jax.P("data")))
    y = jax.ShapeDtypeStruct((DEVICES,), jnp.int32, sharding=x.sharding)
    train_state = jax.eval_shape(functools.partial(TrainState.create, net, optimizer, x=x), jax.random.key(0))
    placed = jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=jax.NamedSharding(mesh, spec)),
        train_state,
        placement.specs(train_state),
    )
    start = time.perf_counter()
    text = jax.jit(step, donate_argnums=0).lower(placed, x, y).compile().as_text() or ""
    counts: collections.Counter[str] = collections.Counter()
    sizes: collections.Counter[str] = collections.Counter()
    small = 0
    for types, kind in COLLECTIVE.findall(text):
        size = sum(
            BYTES[dtype] * functools.reduce(int.__mul__, map(int, filter(None, shape.split(","))), 1)
            for dtype, shape in ARRAY.findall(types)
        )
        counts[kind] += 1
        sizes[kind] += size
        small += size < 2**16
    leaves = jax.tree.leaves(train_state.params)
    return {
        "network": name,
        "shard_params": shard_params,
        "parameters": sum(leaf.size for leaf in leaves),
        "arrays": len(leaves),
        "collectives": dict(counts),
        "megabytes": {kind: size / 1e6 for kind, size in sizes.items()},
        "below_64_kB": small,
        "compiled_seconds": time.perf_counter() - start,
    }


def expected(row: dict[str, Any], devices: int, batch: int = 128) -> dict[str, Any]:
    """Returns what a step on H100 cards sends, and how long that takes if nothing is computed meanwhile.

    In a ring, an all-gather or a reduce-scatter sends (n-1)/n of its arrays and an all-reduce twice that, between
    servers an eighth of it from each card.
    """
    servers = devices // 8
    gradients = 4 * row["parameters"]
    seconds = 2 * 7 / 8 * gradients / IN_SERVER + 2 * (servers - 1) / servers * gradients / 8 / BETWEEN
    small = row["below_64_kB"] * (LATENCY + DOUBLING * (servers - 1).bit_length())
    compute = batch / IMAGES[row["network"]]
    return {
        "network": row["network"],
        "shard_params": row["shard_params"],
        "devices": devices,
        "sent_by_a_card_megabytes": 2 * (devices - 1) / devices * gradients / 1e6,
        "large_ms": 1e3 * seconds,
        "small_ms": 1e3 * small,
        "compute_ms": 1e3 * compute,
        "efficiency": compute / (compute + seconds + small),
        "efficiency_if_gradients_overlap": compute / (max(compute, seconds) + small),
    }


def saves() -> list[dict[str, Any]]:
    """Returns how long a checkpoint takes of 300 MB divided over the devices, as it is and gathered on one first."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from jaxconv.train import TrainState, restore, save
    from jaxconv.train.mesh import Placement

    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    # Of ResNet-50's size, with Adam.
    params = {str(i): jnp.zeros((3, 3, 512, 512)) for i in range(11)}
    whole = TrainState.create(None, optax.adam(1e-3), 0, init=(params, {}))  # type: ignore[arg-type]
    # Noise: zeros would be compressed to nothing.
    rng = np.random.default_rng(0)
    whole = jax.tree.map(lambda a: jnp.asarray(rng.random(a.shape, np.float32)) if a.ndim > 1 else a, whole)
    divided = Placement(mesh, "data").put(whole)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found = []
    for name, prepare in (("divided", lambda t: t), ("gathered", lambda t: jax.device_put(t, one))):
        seconds: dict[str, list[float]] = {"save": [], "restore": []}
        for _ in range(3):
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                save(folder, prepare(divided), [{}])
                seconds["save"].append(time.perf_counter() - start)
                start = time.perf_counter()
                restore(folder, "last", like=divided)
                seconds["restore"].append(time.perf_counter() - start)
                size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        found.append(
            {
                "how": name,
                "arrays_megabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(divided.params)) * 3 / 1e6,
                "disk_megabytes": size / 1e6,
                **{f"{what}_seconds": sorted(values)[1] for what, values in seconds.items()},
            }
        )
        print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    main()
