"""The experiment from the command line to the report, on a few real digits."""

import dataclasses
import json
import re

import pytest

import jaxconv as jc
from experiments import classify

FIGURES = {"learning_curves", "filters", "activations", "confusion"}


@pytest.fixture(scope="module")
def few_digits():
    data = jc.data.mnist5k()
    few = {name: getattr(data, name)[:96] for name in ("train_images", "train_labels", "test_images", "test_labels")}
    return dataclasses.replace(data, **few)


@pytest.fixture(scope="module")
def run(few_digits, tmp_path_factory):
    """One run of two epochs, then what it returned and where it wrote."""
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jc.data, "mnist5k", lambda: few_digits)
        arguments = ["--model", "lenet5", "--epochs", "2", "--batch", "32", "--out", str(out), "--quiet"]
        yield classify.main(arguments), out, arguments


def test_metrics_say_what_ran(run):
    metrics, out, _ = run
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert 0 <= metrics["test_accuracy"] <= 1
    assert metrics["parameters"] == 61_706
    assert metrics["train_seconds"] > 0
    assert metrics["images_per_second"] > 0
    assert {"jax", "jaxlib", "optax", "jaxconv"} <= set(metrics["versions"])
    assert metrics["arguments"]["epochs"] == 2
    assert metrics["seed"] == 0
    assert "cores" in metrics["device"]


def test_report_shows_every_figure_and_needs_no_network(run):
    _, out, _ = run
    page = (out / "report.html").read_text()
    names = {path.stem for path in out.glob("*.png")}
    assert names >= FIGURES
    assert page.count('src="data:image/png;base64,') == len(names)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "61,706 parameters" in page
    assert not list(out.glob("*.partial"))


def test_checkpoint_holds_the_last_epoch(run):
    _, out, _ = run
    assert int(jc.train.restore(out / "checkpoint", "last").step) == 2 * 3


def test_second_run_into_the_same_folder_is_refused_and_a_resumed_one_goes_on(run):
    first, _, arguments = run
    with pytest.raises(ValueError, match="which has a run: use --resume"):
        classify.main(arguments)
    again = classify.main([*arguments, "--resume"])
    assert again["test_accuracy"] == first["test_accuracy"]


@pytest.mark.parametrize("bad", [["--epochs", "0"], ["--lr", "-1"], ["--data", "imagenet"], ["--batch", "many"]])
def test_bad_arguments_are_refused_before_anything_is_written(bad, tmp_path, capsys):
    with pytest.raises(SystemExit):
        classify.main([*bad, "--out", str(tmp_path / "out")])
    assert bad[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folder_is_refused_for_data_that_has_none(tmp_path):
    with pytest.raises(ValueError, match="must not be given for mnist5k, which is part of a package"):
        classify.main(["--data", "mnist5k", "--folder", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_mistakes_are_sorted_by_confidence(few_digits):
    import numpy as np

    probabilities = np.eye(10)[few_digits.test_labels]
    assert classify.mistakes(few_digits, probabilities) is None
    wrong = (few_digits.test_labels[:2] + 1) % 10
    probabilities[0] = 0.4 * probabilities[0] + 0.6 * np.eye(10)[wrong[0]]
    probabilities[1] = 0.1 * probabilities[1] + 0.9 * np.eye(10)[wrong[1]]
    titles = [ax.get_title() for ax in classify.mistakes(few_digits, probabilities).axes]
    assert [re.search(r"\d+%", title).group() for title in titles] == ["90%", "60%"]
