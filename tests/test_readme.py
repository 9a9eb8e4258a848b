"""The README's code runs as it stands, and its figures are those of the committed measurements."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.ops.lowering import onednn

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FIRST, FLAX, ERROR, WEIGHTS, LOOKING, INTEROP, TRAINING, LOOP = re.findall(r"```python\n(.*?)```", README, flags=re.S)


def test_the_first_example_prints_its_table(capsys):
    names: dict = {}
    exec(FIRST, names)
    assert names["scores"].shape == (8, 10)
    assert "multiply-adds" in capsys.readouterr().out
    maps = [row.output.shape[2:] for row in jc.summary(names["net"], (1, 32, 32, 3)).rows if len(row.output.shape) == 4]
    said = [(int(size), int(channels)) for size, channels in re.findall(r"-> (\d+)x\1x(\d+)", FIRST)]
    assert said == [maps[i] for i in (0, 2, 3, 5)]


def test_the_second_example_gives_the_error_that_it_quotes():
    names: dict = {"jax": jax, "jc": jc, "jnp": jax.numpy}
    with pytest.raises(jc.ShapeError) as caught:
        exec(ERROR, names)
    assert names["params"]["layer1"]["0"]["conv1"]["kernel"].shape == (3, 3, 64, 64)
    assert f"# ShapeError: {caught.value}" in ERROR


def test_the_weights_example_fills_the_network(tmp_path):
    pytest.importorskip("safetensors")
    net = jc.models.resnet50()
    shapes = jax.eval_shape(lambda key: net.init(key, (1, 224, 224, 3)), jax.random.key(0))
    arrays = jax.tree.map(lambda s: np.full(s.shape, 0.01, s.dtype), shapes)
    path = tmp_path / "resnet50.safetensors"
    jc.weights.to_torch(net, *arrays, path)
    names: dict = {"jax": jax, "jc": jc, "jnp": jax.numpy}
    exec(WEIGHTS.replace('"resnet50.pth"', repr(str(path))), names)
    assert names["logits"].shape == (1, 1000)


def test_the_flax_example_goes_both_ways():
    names: dict = {"jax": jax, "jc": jc, "jnp": jax.numpy}
    exec(INTEROP, names)
    assert names["y"].shape == (8, 10)
    assert jax.tree.structure(names["variables"]["params"]) == jax.tree.structure(
        names["net"].init(jax.random.key(0), (8, 16, 16, 3))[0]
    )
    assert names["params"]["kernel"].shape == (3, 3, 3, 8)


@pytest.mark.slow
def test_the_looking_example_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = jc.models.convnet()
    params, state = jax.jit(lambda key: net.init(key, (1, 28, 28, 1)))(jax.random.key(0))
    data = jc.data.mnist5k()
    few = dataclasses.replace(data, test_images=data.test_images[:32], test_labels=data.test_labels[:32])
    result = SimpleNamespace(params=params, state=state)
    exec(LOOKING, {"jc": jc, "result": result, "data": few, "mean": 0.1, "std": 0.3})
    assert {path.name for path in tmp_path.iterdir()} == {"lit.png", "patches.png"}


@pytest.mark.slow
def test_the_training_example_trains(tmp_path):
    import optax

    names: dict = {"jax": jax, "jc": jc, "optax": optax}
    exec(TRAINING.replace('"runs/mine"', repr(str(tmp_path / "mine"))), names)
    assert names["result"].history[-1]["validation_accuracy"] > 0.9


def test_the_step_of_ones_own_loop_learns():
    import optax

    names: dict = {
        "jax": jax,
        "jc": jc,
        "optax": optax,
        "net": jc.serial(jc.Conv(4), jc.BatchNorm(), jc.GlobalAvgPool()),
    }
    names["optimizer"] = optax.sgd(0.5)
    exec(LOOP, names)
    images = np.random.default_rng(0).normal(size=(16, 6, 6, 2)).astype(np.float32)
    labels = (images.mean(axis=(1, 2, 3)) > 0).astype(int)
    params, state = names["net"].init(jax.random.key(0), images)
    opt_state, losses = names["optimizer"].init(params), []
    for i in range(20):
        params, state, opt_state, loss = names["step"](params, state, opt_state, images, labels, jax.random.key(i))
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 2


def test_the_ops_that_the_table_names_exist():
    table = README.split("## Ops")[1].split("## Layers")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert len(names) > 25
    assert not [name for name in names if not hasattr(jc, name)]


def test_the_accuracy_table_is_that_of_the_measurements():
    from experiments.benchmarks import accuracy

    assert accuracy.table(json.loads(accuracy.RESULTS.read_text())) in README


def test_the_flax_example_explains_what_it_says(capsys):
    pytest.importorskip("flax", reason="wants flax")
    if not onednn.callable_here():
        pytest.skip("the choice is that of a machine with oneDNN")
    exec(FLAX, {"jax": jax, "jc": jc, "jnp": jax.numpy})
    said = [line.removeprefix("# ").split() for line in FLAX.splitlines() if line.startswith("# ")]
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == said


def test_the_speed_tables_are_those_of_the_measurements():
    from experiments.benchmarks import digits, layers, training

    for module in (layers, training):
        assert module.table(json.loads(module.RESULTS.read_text())) in README
    steps = (ROOT / "docs" / "steps.md").read_text()
    assert training.table(json.loads(training.HUGE_PAGES.read_text())) in steps
    assert training.faults_table(json.loads(training.RESULTS.read_text())) in steps
    page = (ROOT / "docs" / "speed.md").read_text()
    assert layers.notes(json.loads(layers.RESULTS.read_text())) in page
    assert digits.table(json.loads(digits.RESULTS.read_text())) in page


def test_the_tables_of_a_gpu_are_those_of_the_measurements():
    from experiments.benchmarks import layers, programs, reported

    results, page = layers.RESULTS.parent, (ROOT / "docs" / "gpu.md").read_text()
    tables = {
        name: module.table(json.loads((results / f"{name}.json").read_text()))
        for name, module in (("layers_cuda", layers), ("layers_cuda_bfloat16", layers), ("reported_cuda", reported))
    }
    assert [name for name, table in tables.items() if table not in page] == []
    assert tables["layers_cuda"] in README
    assert programs.summary(json.loads(programs.RESULTS.read_text())["cases"]) in page


def test_the_figures_of_transfer_are_those_measured():
    measured = json.loads((ROOT / "experiments/benchmarks/results/finetune.json").read_text())
    said = re.findall(r"([\d.]+)% in (\d+) s\s", README)
    runs = measured["runs"].values()
    assert said == [(f"{100 * run['test_accuracy']:.1f}", f"{run['seconds']:.0f}") for run in runs]
    assert (measured["train_images"], measured["test_images"]) == (1000, 1000)
