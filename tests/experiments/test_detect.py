"""The commands about objects and poses: on the real weights what TensorFlow.js finds, on any picture a file."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import detect, pictures, pose, pretrained, tfjs_reference

RECORD = Path(__file__).parents[1] / "interop" / "tfjs.npz"
NOTHING = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, np.int32)}


def recorded(name):
    with np.load(RECORD) as file:
        start = f"{name}/"
        return {key.removeprefix(start): file[key] for key in file.files if key.startswith(start)}


def real(command):
    """Returns the path of the package's weights, or skips the test."""
    try:
        return command.weights()
    except FileNotFoundError as error:
        pytest.skip(str(error))


def photograph(name):
    try:
        return pictures.photograph(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def gray(tmp_path):
    path = tmp_path / "gray.png"
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def find_objects():
    return detect.detector(real(detect))


@pytest.mark.parametrize("name", detect.PHOTOGRAPHS)
def test_objects_are_those_of_tensorflow_js(name, find_objects):
    found, wanted = find_objects(photograph(name)), recorded(f"detect/{name}")
    assert found["labels"].tolist() == wanted["labels"].tolist()
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=2e-3)
    sentence = "differs from TensorFlow.js by at most" if len(wanted["labels"]) else "TensorFlow.js finds none either"
    assert sentence in detect.difference(found, wanted)


def test_objects_have_names():
    assert detect.names_of(recorded("detect/coffee.png")) == ["cup 0.47"]
    assert len(detect.CLASSES) == len(set(detect.CLASSES)) == 80


@pytest.fixture(scope="module")
def find_pose():
    return pose.finder(real(pose))


@pytest.mark.parametrize("name", pose.PHOTOGRAPHS)
def test_keypoints_are_those_of_tensorflow_js(name, find_pose):
    image = photograph(name)
    found, wanted = find_pose(image), recorded(f"pose/{name}")
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)
    np.testing.assert_allclose(found["points"], wanted["points"], atol=1e-3 * max(image.shape) / 512)
    assert pose.person(found).shape == (1, 17, 2)


@pytest.mark.slow
def test_the_decoding_of_pose_net_is_that_of_the_graph():
    """The heads inside of the graph, decoded by `jaxconv.detect.PoseNet`, give what the graph's own nodes give."""
    import jax

    import jaxconv as jc

    net, params, state = jc.interop.tfjs.from_tfjs(real(pose))
    ends = {"center_0": "center", "kpt_heatmap_0": "heat", "kpt_regress_0": "regression", "kpt_offset_0": "offset"}
    paths = [name for name, layer in net.children if isinstance(layer, jc.Conv)]
    last = {out: [path for path in paths if f"_{start}_" in path][-1] for start, out in ends.items()}
    heads = jc.backbone(net, {path: out for out, path in last.items()})
    x = pose.network_input(photograph("astronaut.png"))[None].astype(np.int32)
    found = dict(jax.jit(heads.apply)(params, state, x)[0])
    for name in ("regression", "offset"):
        # TensorFlow's are y and x.
        found[name] = found[name].reshape(1, 48, 48, 17, 2)[..., ::-1].reshape(1, 48, 48, 34)
    points, scores = jc.detect.PoseNet(heads).decode(found)
    rows = jax.jit(net.apply)(params, state, x)[0][0, 0]
    # The graph multiplies positions by 1 / 48, which is stored in float16.
    np.testing.assert_allclose(points[0, :, ::-1], 4 * rows[:, :2] / np.float32(np.float16(1 / 48)), atol=2e-3)
    np.testing.assert_allclose(scores[0], rows[:, 2], atol=1e-6)


def test_a_picture_without_objects_gives_a_figure(gray, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(detect, "weights", lambda folder: gray)
    monkeypatch.setattr(detect, "detector", lambda model, score: lambda image: NOTHING)
    out = tmp_path / "out"
    detect.main(["--image", str(gray), "--out", str(out)])
    assert json.loads((out / "objects.json").read_text()) == {str(gray): {"boxes": [], "scores": [], "labels": []}}
    assert (out / "figure.png").exists()
    assert f"{gray}: no object with a score above 0.2" in capsys.readouterr().out


def test_a_picture_without_a_person_gives_a_figure(gray, tmp_path, monkeypatch, capsys):
    nobody = {"points": np.full((17, 2), 9.0), "scores": np.full(17, 0.1)}
    monkeypatch.setattr(pose, "weights", lambda folder: gray)
    monkeypatch.setattr(pose, "finder", lambda model: lambda image: nobody)
    pose.main(["--folder", str(gray.parent), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "figure.png").exists()
    assert f"{gray}: no person" in capsys.readouterr().out
    assert pose.person(nobody).shape == (0, 17, 2)


@pytest.mark.parametrize("command", [detect, pose])
def test_missing_packages_are_named(command, gray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="npm install @vladmandic/human"):
        command.main(["--image", str(gray)])
    with pytest.raises(FileNotFoundError, match="npm install @tensorflow/tfjs-core"):
        tfjs_reference.run(tmp_path, gray, {}, [])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", [detect, pose])
def test_a_comparison_without_its_packages_is_refused_first(command, gray, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "pictures", lambda *_: pytest.fail("read pictures"))
    (tmp_path / "node_modules/@tensorflow/tfjs-converter").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"the comparison needs Node and, in .*: npm install @tensorf"):
        command.main(["--image", str(gray), "--compare", str(tmp_path)])


def test_a_wrong_score_is_refused(gray):
    with pytest.raises(ValueError, match=r"--score must be from 0 up and below 1, got 1\.5"):
        detect.main(["--image", str(gray), "--score", "1.5"])


def test_training_is_handed_over(monkeypatch):
    scenes = types.SimpleNamespace(main=lambda argv: argv)
    monkeypatch.setitem(sys.modules, "experiments.detect_scenes", scenes)
    assert detect.main(["--train", "--epochs", "3"]) == ["--epochs", "3"]


def test_npm_files_are_found_in_the_package_and_in_a_folder(tmp_path, monkeypatch):
    path = tmp_path / "node_modules" / "name" / "models" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    monkeypatch.chdir(tmp_path)
    for folder in (None, path.parents[1], path.parent):
        assert pretrained.npm_file("name", "models/a.json", folder).resolve() == path
