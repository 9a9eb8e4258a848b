"""The code of README and docs runs as it stands, and their figures are those of the committed measurements."""

import dataclasses
import importlib
import importlib.util
import json
import re
import types
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.forms import NAMES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = {path.stem: path.read_text() for path in (ROOT / "docs").glob("*.md")}


def examples(page):
    return re.findall(r"```python\n(.*?)```", page, flags=re.S)


FLAX, OWN, BUILD, PRETRAINED, FOLDER = examples(README)
OPS, FIRST = examples(DOCS["start"])
ERROR, COMPOSITE, WEIGHTS, LOOKING, INTEROP = examples(DOCS["networks"])
TRAINING, STRUCTURED, STREAMED, LOOP = examples(DOCS["training"])


def said(example):
    """The comments that quote what the example prints."""
    return [line.removeprefix("#").strip() for line in example.splitlines() if line.startswith("# ")]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_gradient_of_each_kernel_is_computed():
    names: dict = {"jax": jax, "jc": jc, "jnp": jax.numpy}
    exec(OWN, names)
    assert names["grads"].shape == (8, 3, 3, 3, 16)
    assert np.isfinite(names["grads"]).all()


def test_the_network_of_the_readme_prints_its_table_and_gives_the_error_that_it_quotes(capsys):
    with pytest.raises(jc.ShapeError) as caught:
        exec(BUILD, {"jax": jax, "jc": jc, "jnp": jax.numpy})
    printed = capsys.readouterr().out.splitlines()
    *table, error = said(BUILD)
    assert [line.removesuffix("...").strip() for line in table] == printed[: len(table)]
    assert error == f"ShapeError: {caught.value}"


@pytest.mark.slow
def test_the_retrieval_example_finds_neighbors():
    names: dict = {}
    exec(examples(DOCS["retrieval"])[0], names)
    assert names["found"].indices.shape == names["found"].distances.shape == (20, 5)
    assert names["rows"].shape[0] == 100
    assert (np.diff(names["found"].distances) >= 0).all()


@pytest.mark.slow
def test_the_pretrained_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch_file(tmp_path / "resnet50.safetensors")
    code = PRETRAINED.replace("resnet50.pth", "resnet50.safetensors")
    names: dict = {"jax": jax, "jc": jc, "jnp": jax.numpy}
    exec(code, names)
    assert names["result"].history[-1]["validation_accuracy"] > 0.9
    assert (tmp_path / "grad_cam.png").stat().st_size > 1000


def test_the_folder_example_trains_on_every_device_and_continues(tmp_path, monkeypatch):
    import optax
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for name, color in (("cat", 0), ("dog", 255)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (12, 12), (color, i, 0)).save(f"photos/{name}/{i}.jpg")
    code = FOLDER
    for text, small in {"64": "4", "RandomResizedCrop(4)": "RandomResizedCrop(8)", "epochs=5": "epochs=EPOCHS",
                        "jc.models.resnet18(len(photos.classes))": "NET"}.items():  # fmt: skip
        assert text in code
        code = code.replace(text, small)
    names: dict = {
        "jax": jax, "jc": jc, "optax": optax, "NET": jc.serial(jc.Flatten(), jc.Dense(2)),
        "options": {"loss": optax.softmax_cross_entropy_with_integer_labels, "preprocess": lambda x: x / 255},
    }  # fmt: skip
    for epochs in (1, 2):
        exec(code, names | {"EPOCHS": epochs})
        assert (tmp_path / "runs" / "photos" / str(epochs)).is_dir()


def torch_file(path):
    """Writes a file of ResNet-50's weights, with torchvision's names."""
    net = jc.models.resnet50()
    shapes = jax.eval_shape(lambda key: net.init(key, (1, 224, 224, 3)), jax.random.key(0))
    arrays = jax.tree.map(lambda s: np.full(s.shape, 0.01, s.dtype), shapes)
    jc.weights.to_torch(net, *arrays, path)


def test_the_first_steps_give_the_shapes_that_they_state():
    names: dict = {}
    exec(OPS, names)
    stated = re.findall(r"^(jc\..*?) +# (\(.*?\)|\d+)", OPS, flags=re.M)
    assert len(stated) == 4
    for call, value in stated:
        assert str(eval(call, names)) == value


def test_the_custom_composite_prints_its_table(capsys):
    exec(COMPOSITE, {"jax": jax, "jc": jc, "jnp": jax.numpy})
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()[:-1]] == said(COMPOSITE)


def test_prose_has_no_name_of_jaxconv_that_does_not_exist():
    """As `jc.train_step`, which is `jc.train.train_step`."""
    missing = []
    notebooks = {path.stem: path.read_text() for path in (ROOT / "notebooks").glob("*.ipynb")}
    pages = {"README": README, "CHANGELOG": (ROOT / "CHANGELOG.md").read_text(), **DOCS, **notebooks}
    for page, text in pages.items():
        for name in sorted(set(re.findall(r"\b(?:jc|jaxconv)((?:\.[A-Za-z_]\w*)+)", text))):
            found = jc
            for part in name[1:].split("."):
                if isinstance(found, type | types.FunctionType):
                    break  # an attribute of a result, a method
                if (
                    not hasattr(found, part)
                    and importlib.util.find_spec(f"{getattr(found, '__name__', '')}.{part}") is None
                ):
                    missing.append(f"{page}: jc{name}")
                    break
                found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")
    assert missing == []


def test_the_first_example_prints_its_table(capsys):
    names: dict = {"jax": jax, "jc": jc, "jnp": jax.numpy}
    exec(FIRST, names)
    assert names["scores"].shape == (8, 10)
    assert "multiply-adds" in capsys.readouterr().out
    maps = [row.output.shape[2:] for row in jc.summary(names["net"], (1, 32, 32, 3)).rows if len(row.output.shape) == 4]
    stated = [(int(size), int(channels)) for size, channels in re.findall(r"-> (\d+)x\1x(\d+)", FIRST)]
    assert stated == [maps[i] for i in (0, 2, 3, 5)]


def test_the_second_example_gives_the_error_that_it_quotes():
    names: dict = {"jax": jax, "jc": jc, "jnp": jax.numpy}
    with pytest.raises(jc.ShapeError) as caught:
        exec(ERROR, names)
    assert names["params"]["layer1"]["0"]["conv1"]["kernel"].shape == (3, 3, 64, 64)
    assert f"# ShapeError: {caught.value}" in ERROR


def test_the_weights_example_fills_the_network(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "resnet50.safetensors"
    torch_file(path)
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


def test_targets_of_several_arrays_are_trained_on():
    import optax

    rng = np.random.default_rng(0)
    names: dict = {
        "jax": jax,
        "jc": jc,
        "jnp": jax.numpy,
        "optax": optax,
        "net": jc.serial(jc.Flatten(), jc.Dense(6), lambda y: {"scores": y[:, :2], "boxes": y[:, 2:]}),
        "optimizer": optax.adam(0.1),
        "images": rng.normal(size=(200, 2, 2, 1)).astype(np.float32),
        "labels": rng.integers(0, 2, 200),
        "boxes": np.ones((200, 4), np.float32),
    }
    exec(STRUCTURED.replace("epochs=30", "epochs=4"), names)
    result = names["result"]
    assert result.history[-1]["validation_boxes"] < result.history[0]["validation_boxes"]
    assert "validation_accuracy" in result.history[0]


def test_batches_from_a_folder_and_from_a_stream_are_trained_on(tmp_path, monkeypatch):
    import itertools

    import optax
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for name, color in (("cats", 0), ("dogs", 255)):
        (tmp_path / "photographs" / "train" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (12, 12), (color, i, 0)).save(f"photographs/train/{name}/{i}.png")
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int)
    names: dict = {
        "jc": jc,
        "net": jc.serial(jc.Flatten(), jc.Dense(2)),
        "optimizer": optax.sgd(0.1),
        "loss": optax.softmax_cross_entropy_with_integer_labels,
        "preprocess": lambda x: x.astype(np.float32) / 255,
        "held_out": (images, labels),
        "stream": itertools.repeat((images, labels)),
    }
    small = {"64": "4", "224": "8", "epochs=90": "epochs=2", "100_000, epochs=100": "4, epochs=2"}
    code = STREAMED
    for text, other in small.items():
        assert text in code
        code = code.replace(text, other)
    exec(code, names)
    assert (tmp_path / "runs" / "photographs" / "2").is_dir()


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
    rows = [line.split("|")[1] for line in DOCS["ops"].splitlines() if line.startswith("| `")]
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    functions = names - set(NAMES)
    assert len(functions) > 25
    assert not [name for name in functions if not hasattr(jc, name)]


def test_the_accuracy_table_is_that_of_the_measurements():
    from experiments.benchmarks import accuracy

    assert accuracy.table(json.loads(accuracy.RESULTS.read_text())) in DOCS["training"]


def test_the_flax_example_explains_what_it_says(capsys):
    pytest.importorskip("flax", reason="wants flax")
    if not onednn.callable_here():
        pytest.skip("the choice is that of a machine with oneDNN")
    exec(FLAX, {"jax": jax, "jc": jc, "jnp": jax.numpy})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [line.split() for line in said(FLAX)]


def test_the_speed_tables_are_those_of_the_measurements():
    from experiments.benchmarks import digits, draws, first_step, layers, training

    assert layers.short_table(json.loads(layers.RESULTS.read_text())) in README
    steps = DOCS["steps"]
    assert training.table(json.loads(training.RESULTS.read_text())) in steps
    assert training.table(json.loads(training.HUGE_PAGES.read_text())) in steps
    assert training.faults_table(json.loads(training.RESULTS.read_text())) in steps
    assert first_step.table(json.loads(first_step.RESULTS.read_text())["seconds"]) in steps
    assert draws.table(json.loads(draws.RESULTS.read_text())) in steps
    page = DOCS["speed"]
    assert layers.table(json.loads(layers.RESULTS.read_text())) in page
    assert layers.notes(json.loads(layers.RESULTS.read_text())) in page
    assert digits.table(json.loads(digits.RESULTS.read_text())) in page


def test_the_tables_of_a_gpu_are_those_of_the_measurements():
    from experiments.benchmarks import gpu_compiled, layers, programs, reported

    results, page = layers.RESULTS.parent, DOCS["gpu"]
    tables = {
        name: module.table(json.loads((results / f"{name}.json").read_text()))
        for name, module in (("layers_cuda", layers), ("layers_cuda_bfloat16", layers), ("reported_cuda", reported))
    }
    assert [name for name, table in tables.items() if table not in page] == []
    assert programs.summary(json.loads(programs.RESULTS.read_text())["cases"]) in page
    assert gpu_compiled.table(json.loads((results / "gpu_compiled.json").read_text())) in page


def test_the_figures_of_commands_are_those_of_their_runs():
    from experiments import duplicates, retrieve
    from experiments.benchmarks import applications

    of = json.loads(applications.RESULTS.read_text())
    video = {name: f"{100 * run['test_accuracy']:.1f}%" for name, run in of["video"]["runs"].items()}
    pong = of["pong"]
    drawn = json.loads(applications.RESULTS.with_name("video.json").read_text())["video"]
    validated = {name: rows[-1]["validation_accuracy"] for name, rows in drawn["history"].items()}
    quoted = {
        "play": (
            f"| {pong['seconds']:.0f} s | {pong['processor_seconds']:.0f} s | {pong['frames']:,} | {pong['steps']:,} "
            f"| {pong['updates']:,} | {pong['frames_per_second']:.0f} "
            f"| {pong['frames'] / pong['processor_seconds']:.0f} |",
            f"Its {len(pong['returns'])} games ended between {min(pong['returns']):.0f} and "
            f"{max(pong['returns']):.0f}, with a mean of {sum(pong['returns']) / len(pong['returns']):.1f};",
        ),
        "segmentation": (
            f"Dice {of['nuclei']['dice']:.3f}, AP50 {of['nuclei']['AP50']:.3f}",
            f"IoU {of['roads']['iou']['D-LinkNet']:.3f}, by thresholds {of['roads']['iou']['thresholds']:.3f}",
            f"mean IoU {of['segment']['mean_iou']:.3f}",
        ),
        "detectors": (
            f"{100 * of['detect_scenes']['AP50']:.1f}% in two runs",
            f"{100 * of['signs']['test_accuracy']:.0f}% of 1,040 drawn signs",
            f"{100 * of['galaxies']['test_accuracy']:.0f}% of 600 simulated galaxies",
            f"{100 * of['pose_train']['pck']:.1f}% of the joints",
        ),
        "retrieval": (
            duplicates.table(of["crops"]),
            f"the index of faiss finds {of['crops']['index']['recall_at_10']:.1%}",
            retrieve.table(of["descriptors"]),
        ),
        "video": (
            f"| R(2+1)D-18 | {video['r2plus1d']} |",
            f"| MC3-18 | {video['mc3']} |",
            f"| R(2+1)D-18 of one frame | {video['r2plus1d, one frame']} |",
            f"one frame {video['spatial stream (one frame)']}, optical flow {video['temporal stream (flow)']} | "
            f"{video['two streams']} |",
            f"({drawn['processor_seconds']:.0f} s of processor time",
            f"{100 * validated['mc3']:.1f}% there, and {100 * validated['mc3, one frame']:.1f}% with one frame",
        ),
    }
    assert [(page, text) for page, texts in quoted.items() for text in texts if text not in DOCS[page]] == []


def test_the_figures_of_transfer_are_those_measured():
    measured = json.loads((ROOT / "experiments/benchmarks/results/finetune.json").read_text())
    said = re.findall(r"([\d.]+)% in (\d+) s\s", DOCS["networks"])
    runs = measured["runs"].values()
    assert said == [(f"{100 * run['test_accuracy']:.1f}", f"{run['seconds']:.0f}") for run in runs]
    assert (measured["train_images"], measured["test_images"]) == (1000, 1000)
