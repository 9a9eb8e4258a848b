"""Retrieval from the command line to the report, on a few images; on photographs and clothes, by a margin."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

import jaxconv as jc
from experiments import classify, descriptor_training, pretrained, retrieve


@pytest.fixture(scope="module")
def small():
    """The command on a few digits with a small network, by the folder and more arguments."""
    data = jc.data.mnist5k()
    few = {name: getattr(data, name)[:96] for name in ("train_images", "train_labels", "test_images", "test_labels")}

    def run(out, *more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jc.data, "mnist5k", lambda: dataclasses.replace(data, **few))
            patch.setitem(classify.MODELS, "convnet", functools.partial(jc.models.convnet, widths=(4, 8)))
            patch.setattr(retrieve, "SHEET", 2)
            arguments = "--data mnist5k --epochs 1 --batch 32 --queries 40 --quiet --out".split()
            return retrieve.main([*arguments, str(out), *more])

    return run


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """One run of one epoch, then what it returned and where it wrote."""
    out = tmp_path_factory.mktemp("run")
    return small(out), out


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


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("--triplet", "--triplet needs --data"),
        ("--siamese", "--siamese needs --data"),
        ("--crops 300 --triplet", "--triplet must not be given with --crops"),
        ("--crops 300 --queries 3", "--queries must not be given with --crops"),
        ("--crops 199", "--crops must be at least 200, got 199"),
        ("--crops 300 --data mnist5k", "not allowed with argument"),
        ("--epochs 2", "--epochs needs --data"),
        ("--lr 0.1 --seeds 2", "--seeds needs --data"),
        ("--query a.png", "--query needs --folder"),
        ("--folder .", "--folder needs --query, or --data"),
        ("--folder nowhere --query a.png", "--folder must be a folder, got nowhere"),
        ("--folder . --query a.png --image b.png c.png", "--image must not be given with --folder"),
        ("--data mnist5k --weights a.pth", "--weights must not be given with --data"),
        ("--weights nowhere.pth", "--weights must be a file, got nowhere.pth"),
        ("--data mnist5k --triplet --batch 8", "--batch must be at least 16 with --triplet or --siamese, got 8"),
        ("--seed -1", "--seed must be from 0 to 4294967295, got -1"),
        ("--data mnist5k --seeds 2 --seed 4294967295", "--seed must be from 0 to 4294967294, got"),
        ("--out README.md", "--out must be a folder that can be written, got README.md"),
        ("--out README.md/below", "--out must be a folder that can be written, got README.md/below"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(bad, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "README.md").touch()
    monkeypatch.chdir(tmp_path)
    for module, name in ((retrieve, "load"), (retrieve, "photograph"), (pretrained, "efficientnet_lite0")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("read first"))
    with pytest.raises(SystemExit):
        retrieve.main(bad.split())
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_weights_are_read_before_photographs(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    monkeypatch.setattr(retrieve, "photograph", lambda name: pytest.fail("read first"))
    with pytest.raises(jc.weights.WeightsError, match=r"weights\.pth"):
        retrieve.main(["--weights", str(tmp_path / "weights.pth"), "--out", str(tmp_path / "out")])


def test_each_image_has_a_pair_of_its_class_and_one_of_another():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 3)
    order = random.permutation(12)
    x = random.normal(size=(12, 5)) / 3
    # Sorted by class: the next image is of the same class for two of three, the sixth of another for all.
    loss = np.zeros(12)
    for i in range(12):
        for j in ((i + 1) % 12, (i + 6) % 12):
            far = np.linalg.norm(x[i] - x[j])
            loss[i] += (far**2 if labels[i] == labels[j] else max(0, descriptor_training.PAIR_MARGIN - far) ** 2) / 2
    found = descriptor_training.pairs(x[order].astype(np.float32), labels[order])
    np.testing.assert_allclose(found.sum(), loss.sum(), rtol=0.2)
    ordered = descriptor_training.pairs(x.astype(np.float32), labels)
    np.testing.assert_allclose(ordered, loss, rtol=1e-5)


@pytest.mark.slow
def test_another_epoch_to_classify_by_pairs_and_by_triplets_for_each_seed(small, tmp_path):
    metrics = small(tmp_path, "--siamese", "--triplet", "--seeds", "2")
    found = metrics["of_each_seed"]
    names = ["learned", "untrained", "classification", "siamese", "triplets", "pixels"]
    assert list(found) == names
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(names, 2) | {"pixels": 1}
    assert all(len(set(found[name])) == 2 for name in names[:-1])
    assert all(0.1 < value <= 1 for value in metrics["precision_at_10"].values())
    assert metrics["seeds"] == [0, 1]
    sheets = {"neighbors_learned", "neighbors_siamese", "neighbors_triplets", "neighbors_pixels", "map"}
    assert {path.stem for path in tmp_path.glob("*.png")} == sheets


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
