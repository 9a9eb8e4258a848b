"""Retrieval from the command line to the report, on a few real digits; on all of the clothes, by a margin."""

import dataclasses
import functools
import json

import pytest

import jaxconv as jc
from experiments import retrieve


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
    assert {path.stem for path in out.glob("*.png")} == {"neighbours_learned", "neighbours_pixels", "map"}
    assert (out / "report.html").read_text().count('src="data:image/png;base64,') == 3


def test_data_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(jc.data.DataError, match="Fashion-MNIST"):
        retrieve.main(["--folder", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


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
    precision = retrieve.main(["--quiet", "--queries", "2000", "--out", str(tmp_path)])["precision_at_10"]
    assert precision["learned"] > precision["pixels"] + 0.03
    assert precision["learned"] > precision["untrained"] + 0.03
