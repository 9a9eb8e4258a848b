import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxconv.train import NonFiniteLossError, progress
from jaxconv.train.epoch import Recipe, program
from jaxconv.train.progress import Progress

RECORD = {"step": 10, "loss": 0.5, "accuracy": 0.75, "validation_accuracy": 0.625}


PROGRAM = program(Recipe(None, None, optax.sgd(0.1)))


def totals(steps, bad=-1):
    sums = {"loss": jnp.float32(2.0 * steps), "accuracy": jnp.float32(0.5 * steps)}
    return {"steps": jnp.int32(steps), "count": jnp.int32(steps), "bad": jnp.int32(bad), "sums": sums}


def make(show=False, history=(), folder=None, **options):
    history = [{**record, "step": 10 * i} for i, record in enumerate(history, 1)]
    options = {"program": PROGRAM, "epochs": 3, "steps": 10, "total": 30, "batch_size": 4, **options}
    return Progress(show=show, folder=folder, history=history, **options)


def test_bar_shows_rate_loss_accuracy_and_time_left(capsys):
    with make(show=True, history=[RECORD]) as bar:
        bar.read(totals(5))
        bar.end({**RECORD, "step": 20})
        bar.read(totals(10))
    text = capsys.readouterr().err
    assert "epoch 3/3" in text
    assert "120/120" in text
    assert "image/s" in text
    assert "loss=2.0000" in text
    assert "accuracy=0.5000" in text
    assert "validation_accuracy=0.6250" in text


def test_no_bar(capsys):
    with make() as bar:
        assert bar.read(totals(5)) == {"loss": 2.0, "accuracy": 0.5}
    assert capsys.readouterr().err == ""


def test_reads_now_and_then(monkeypatch):
    reads = []
    monkeypatch.setattr(Progress, "read", lambda self, totals: reads.append(totals))
    with make() as bar:
        for step in range(100):
            bar.on_step(totals(step))
        assert len(reads) < 100
        monkeypatch.setattr(progress, "_INTERVAL", 0.0)
        bar.on_step(totals(100))
    assert reads


@pytest.mark.parametrize(
    ("history", "folder", "good"),
    [
        ([RECORD] * 2, "runs/a", "epoch 3, step 8 of 10; the last good state is the checkpoint of epoch 2 in runs/a"),
        ([], "runs/a", "epoch 1, step 8 of 10; no epoch ended well, so runs/a holds no checkpoint"),
        ([], None, "epoch 1, step 8 of 10; no checkpoint was kept: fit was given no folder"),
    ],
)
def test_a_bad_loss_stops(history, folder, good):
    with make(history=history, folder=folder) as bar, pytest.raises(NonFiniteLossError) as caught:
        bar.read(totals(9, bad=7))
    assert str(caught.value) == f"the loss is not finite at {good}"
    assert isinstance(caught.value, FloatingPointError)
    assert (caught.value.epoch, caught.value.step) == (len(history) + 1, 8)
    assert caught.value.folder == (folder if history else None)
    assert [record["loss"] for record in caught.value.history] == [0.5] * len(history)


def test_the_batch_of_a_bad_loss_is_given():
    with make(indices=lambda epoch, step: np.array([epoch, step])) as bar, pytest.raises(NonFiniteLossError) as caught:
        bar.read(totals(9, bad=7))
    assert caught.value.indices.tolist() == [0, 7]
    assert str(caught.value).endswith("; its batch is inputs[[0, 7]]")


def test_a_run_of_unknown_length(capsys):
    with make(show=True, epochs=None, steps=None, total=None) as bar:
        bar.read(totals(5))
        with pytest.raises(NonFiniteLossError, match="at epoch 1, step 3; no checkpoint"):
            bar.read(totals(5, bad=2))
    assert "epoch 1" in capsys.readouterr().err


NOTEBOOK = """
from jaxconv.train.progress import Progress
import optax
from jaxconv.train.epoch import Recipe, program
made = program(Recipe(None, None, optax.identity()))
bar = Progress(
    show=True, program=made, epochs=1, steps=10, total=10, batch_size=4, folder=None, history=[]
)
with bar:
    bar.read({"steps": 10, "count": 10, "bad": -1, "sums": {"loss": 5.0}})
"""


@pytest.mark.notebook
def test_a_saved_notebook_keeps_the_end_of_the_bar():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipywidgets")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    nbclient.NotebookClient(notebook, kernel_name="python3").execute()
    kept = "".join(output.get("data", {}).get("text/plain", "") for output in notebook.cells[0].outputs)
    assert "100%" in kept
    assert "40" in kept
    assert "0%|" not in kept.replace("100%|", "")
