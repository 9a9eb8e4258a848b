"""Altered copies: the collection, and the command on a small one."""

import numpy as np
import pytest

import jaxconv as jc
from experiments import duplicates, pretrained, retrieve


@pytest.fixture
def squares(monkeypatch):
    made = np.random.default_rng(0).integers(0, 256, (150, duplicates.SIDE, duplicates.SIDE, 3), np.uint8)
    monkeypatch.setattr(duplicates, "pieces", lambda: made)
    return made


def test_the_collection_has_copies_of_each_query_and_no_query(squares):
    data = duplicates.collection(200, 0)
    assert data.images.shape == (200, 64, 64, 3)
    assert data.images.dtype == np.uint8
    assert [int((data.labels == label).sum()) for label in data.query_labels] == [duplicates.COPIES] * 5
    assert len(np.unique(data.labels)) == 5 + 200 - 5 * duplicates.COPIES
    flat = {image.tobytes() for image in data.images}
    assert len(flat) == 200
    assert not {image.tobytes() for image in data.queries} & flat
    again = duplicates.collection(200, 0)
    np.testing.assert_array_equal(data.images, again.images)
    with pytest.raises(ValueError, match="--crops must be at least 200, got 199"):
        duplicates.collection(199, 0)


@pytest.mark.slow
def test_the_command_compares_descriptors_and_writes_a_report(squares, tmp_path, monkeypatch):
    net = jc.serial(conv=jc.Conv(4, stride=8), inner=jc.PReLU(), _relu1=jc.PReLU(), pool=jc.GlobalAvgPool())
    params, state = net.init(0, (1, 64, 64, 3))
    model = pretrained.Pretrained(net, params, state, pretrained.scaled_around_127)
    monkeypatch.setattr(pretrained, "efficientnet_lite0", lambda path: model)
    monkeypatch.setattr(duplicates, "LAYERS", ("inner",))
    metrics = retrieve.main(["--crops", "200", "--quiet", "--out", str(tmp_path)])
    assert list(metrics["mean_average_precision"]) == list(duplicates.TITLES)
    assert all(0 < value <= 1 for value in metrics["mean_average_precision"].values())
    assert (metrics["images"], metrics["queries"]) == (200, 5)
    first, second = np.transpose([*metrics["photographs_and_generated"].values()])
    np.testing.assert_allclose((2 * first + 3 * second) / 5, [*metrics["mean_average_precision"].values()])
    assert (tmp_path / "report.html").exists()


def test_triplets_need_a_data_set(capsys):
    with pytest.raises(SystemExit):
        retrieve.main(["--triplet"])
    assert "--triplet needs --data" in capsys.readouterr().err
