"""Retrieval from the command line to the report, on a few images; on photographs and clothes, by a margin."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

import jaxconv as jc
from experiments import pretrained, retrieve


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of one epoch, then what it returned and where it wrote."""
    out = tmp_path_factory.mktemp("run")
    data = jc.data.mnist5k()
    few = {name: getattr(data, name)[:96] for name in ("train_images", "train_labels", "test_images", "test_labels")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jc.data, "mnist5k", lambda: dataclasses.replace(data, **few))
        patch.setitem(retrieve.MODELS, "convnet", functools.partial(jc.models.convnet, widths=(4, 8)))
        patch.setattr(retrieve, "SHEET", 2)
        arguments = "--data mnist5k --epochs 1 --batch 32 --queries 40 --quiet --out".split()
        metrics = retrieve.main([*arguments, str(out)])
    # The test on all of the clothes wants the network whole again.
    return metrics, out


@pytest.mark.slow
def test_metrics_say_what_ran(run):
    metrics, out = run
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["precision_at_10"].keys() == {"learned", "untrained", "pixels"}
    assert all(0.1 < value <= 1 for value in metrics["precision_at_10"].values())
    assert (metrics["queries"], metrics["database"]) == (40, 96)


@pytest.mark.slow
def test_the_report_has_both_sheets_and_the_map(run):
    _, out = run
    assert {path.stem for path in out.glob("*.png")} == {"neighbors_learned", "neighbors_pixels", "map"}
    assert (out / "report.html").read_text().count('src="data:image/png;base64,') == 3


def test_data_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(jc.data.DataError, match="Fashion-MNIST"):
        retrieve.main(["--data", "fashion_mnist", "--folder", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_pieces_to_ask_with_lie_apart_from_those_to_be_found():
    width = 2 * retrieve.PIECE
    photograph = np.broadcast_to(np.uint8(np.arange(2 * width) // 2)[:, None], (width, 2 * width, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieve, "photograph", lambda name: photograph)
        data = retrieve.halves(["a.png", "b.png"], 0, quiet=True)
    count = tuple(2 * n for n in retrieve.PIECES)
    assert (len(data.train_images), len(data.test_images), data.classes) == (*count, ("a", "b"))
    assert data.train_images.max() < width / 2 <= data.test_images.min()
    assert data.train_labels.tolist() == sorted(data.train_labels)


def test_photographs_are_found_by_a_network_that_learned_before(tmp_path):
    net = jc.serial(conv=jc.Conv(4), _relu1=jax.nn.relu)
    params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    model = pretrained.Pretrained(net, params, state, pretrained.scaled_around_127)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "efficientnet_lite0", lambda path: model)
        patch.setattr(retrieve, "PIECES", (6, 3))
        patch.setattr(retrieve, "PIECE", 24)
        patch.setattr(retrieve, "SHEET", 2)
        arguments = "--image chelsea.png coffee.png rocket.jpg --quiet --out".split()
        metrics = retrieve.main([*arguments, str(tmp_path)])
    assert (metrics["database"], metrics["queries"]) == (18, 9)
    assert metrics["precision_at_10"].keys() == {"learned", "untrained", "pixels"}
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("names", [["chelsea.png"], ["chelsea.png", "chelsea.png"], ["chelsea.png", "nowhere.png"]])
def test_photographs_that_cannot_be_told_apart_or_found_are_refused(names, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=r"two photographs|nowhere"):
        retrieve.main(["--quiet", "--image", *names, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_learned_features_of_photographs_beat_pixels_by_fifty_points(tmp_path):
    precision = retrieve.main(["--quiet", "--out", str(tmp_path)])["precision_at_10"]
    assert precision["learned"] > precision["pixels"] + 0.5
    assert precision["learned"] > precision["untrained"] + 0.5


@pytest.mark.parametrize("bad", [["--queries", "0"], ["--data", "imagenet"]])
def test_bad_arguments_are_refused(bad, tmp_path, capsys):
    with pytest.raises(SystemExit):
        retrieve.main([*bad, "--out", str(tmp_path / "out")])
    assert bad[0] in capsys.readouterr().err


@pytest.mark.slow
def test_learned_features_of_clothes_beat_pixels_by_three_points(tmp_path):
    try:
        jc.data.fashion_mnist()
    except jc.data.DataError as error:
        pytest.skip(str(error))
    arguments = "--data fashion_mnist --quiet --queries 2000 --out".split()
    precision = retrieve.main([*arguments, str(tmp_path)])["precision_at_10"]
    assert precision["learned"] > precision["pixels"] + 0.03
    assert precision["learned"] > precision["untrained"] + 0.03
