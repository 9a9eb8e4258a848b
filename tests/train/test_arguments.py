import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxconv.metrics import accuracy
from jaxconv.structs import struct_of
from jaxconv.train.arguments import (
    check_arrays,
    check_batch_size,
    check_classes,
    check_data,
    check_folder,
    check_loss,
    check_positive,
    check_run,
)
from tests.train.toys import cross_entropy

# As a run's folder has them: what systems leave, the lock, and a checkpoint that was being written.
LEFTOVERS = ".DS_Store .ipynb_checkpoints .nfs0012 Thumbs.db desktop.ini lost+found @eaDir .lock .partial-1-ab".split()
LOGITS = jax.ShapeDtypeStruct((4, 3), jnp.float32)


def test_arrays():
    assert check_data(np.zeros((5, 2)), np.zeros(5)) == check_arrays(np.zeros((5, 2))) == 5
    assert check_data({"a": np.zeros((5, 2)), "b": [np.zeros(5)]}, (np.zeros(5), np.zeros((5, 3)))) == 5
    with pytest.raises(ValueError, match=r"^targets must have 5 examples, as the inputs have, got None"):
        check_data(np.zeros((5, 2)), None)
    with pytest.raises(ValueError, match=r"^validation targets must have 5 examples, .* got shape \(4,\)"):
        check_data(np.zeros((5, 2)), np.zeros(4), name="validation")
    with pytest.raises(ValueError, match=r"^targets\['box'\] must have 5 examples, .* got shape \(4, 4\)"):
        check_data(np.zeros((5, 2)), {"label": np.zeros(5), "box": np.zeros((4, 4))})
    with pytest.raises(ValueError, match=r"^inputs must be an array .*, got \(\)"):
        check_arrays(np.float32(0))
    with pytest.raises(ValueError, match=r"^inputs must be an array, or a pytree of arrays, got dict"):
        check_arrays({})


def test_numbers():
    check_batch_size(4, 4)
    check_positive("epochs", np.int64(1))
    with pytest.raises(ValueError, match="batch_size must be at most 4, the number of training examples, got 5"):
        check_batch_size(5, 4)
    for value in (0, -1, 1.5, True, "3", None):
        with pytest.raises(ValueError, match="epochs must be an int of 1 or more, got"):
            check_positive("epochs", value)


def loss_of(outputs, targets, loss=cross_entropy, metrics=(), name=""):
    some = struct_of((4, *targets.shape[1:]), targets.dtype)
    check_loss(loss, metrics, outputs, some, name=name)
    check_classes(loss, metrics, outputs, targets, name=name)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3, 1]), "train targets must be 0 to 2 for 3 classes, got 0 to 3"),
        (np.array([-1, 2, 1]), "train targets must be 0 to 2 for 3 classes, got -1 to 2"),
        (np.array([0.0, 1.0, 2.0], np.float32), r"train targets must be what softmax_cross\w+ takes .* got float32"),
        (np.zeros((5, 3), np.int32), r"train targets must be what .* outputs float32 \(4, 3\), got int32 \(4, 3\)"),
    ],
)
def test_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        loss_of(LOGITS, labels, name="train")


def test_good_labels():
    loss_of(LOGITS, np.array([0, 2], np.uint8))
    loss_of(LOGITS, np.zeros((7, 3), np.float32), optax.softmax_cross_entropy)
    loss_of({"a": LOGITS}, np.array([9]), lambda y, labels: y["a"].mean() + 0 * labels.sum())


def test_identities_are_not_classes():
    """Embeddings of 3 features and integer identities: only a loss that says so makes them logits and labels."""
    loss_of(LOGITS, np.array([0, 77]), lambda y, labels: jnp.square(y).sum(-1) * labels)
    with pytest.raises(ValueError, match="targets must be 0 to 2 for 3 classes, got 0 to 77"):
        loss_of(LOGITS, np.array([0, 77]), lambda y, labels: y[:, 0], (("accuracy", accuracy),))


@pytest.mark.parametrize("loss", [lambda y, labels: y[1:, 0], lambda y, labels: (y, labels), lambda y, labels: None])
def test_a_loss_of_the_wrong_form(loss):
    with pytest.raises(
        ValueError, match=r"loss must return a scalar, a value for each of 4 examples, or \(loss, dict\)"
    ):
        loss_of(LOGITS, np.zeros(9, int), loss)


def test_values_of_the_wrong_form():
    def loss(y, labels):
        return y.mean(), {"part": y[1:, 0]}

    with pytest.raises(
        ValueError, match=r"part must be a scalar or a value for each of 4 examples, got float32 \(3,\)"
    ):
        loss_of(LOGITS, np.zeros(9, int), loss)
    with pytest.raises(ValueError, match="iou must be a scalar or a value for each of 4 examples, got list"):
        loss_of(LOGITS, np.zeros(9, int), metrics=(("iou", lambda y, labels: [1, 2]),))
    with pytest.raises(ValueError, match="a name must be none of those that loss returns, got 'part'"):
        loss_of(LOGITS, np.zeros(9, int), lambda y, t: (y.mean(), {"part": y.mean()}), (("part", accuracy),))
    with pytest.raises(ValueError, match=r"loss: a name must be a string other than loss, .*, got 'epoch'"):
        loss_of(LOGITS, np.zeros(9, int), lambda y, t: (y.mean(), {"epoch": y.mean()}))


def test_folder(tmp_path):
    new = tmp_path / "new"
    assert check_folder(new, resume=False) == new
    assert not new.exists()
    assert check_folder(new, resume=True) == new
    for name in LEFTOVERS:
        (new / name).mkdir(parents=True)
    (new / "9").mkdir()  # A copy that was cut short, or a mkdir: no checkpoint.
    (new / "9" / ".DS_Store").touch()
    for resume in (False, True):
        assert check_folder(new, resume=resume) == new
    (new / "1" / "record").mkdir(parents=True)
    (new / "2.damaged" / "record").mkdir(parents=True)
    assert check_folder(new, resume=True) == new
    with pytest.raises(ValueError, match=r"folder must be new, or resume=True, got .*, which holds a run"):
        check_folder(new, resume=False)
    # Folders of ten digits' images are no run.
    (new / "3").mkdir()
    (new / "3" / "a.png").touch()
    with pytest.raises(ValueError, match=r"folder must hold nothing but a run of fit, got '3/a\.png'"):
        check_folder(new, resume=True)
    shutil.rmtree(new / "3")
    (new / "notes.txt").touch()
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"folder must hold nothing but a run of fit, got 'notes\.txt'"):
            check_folder(new, resume=resume)
    with pytest.raises(ValueError, match="folder must be a folder, got a file"):
        check_folder(new / "notes.txt", resume=False)


def test_run(tmp_path):
    run = {"examples": 10, "batch_size": 4, "key": [0, 1]}
    check_run(tmp_path, dict(run), run)
    with pytest.raises(ValueError, match=r"batch_size must be 5, as in the run that .* holds, got 4"):
        check_run(tmp_path, {**run, "batch_size": 5}, run)
    with pytest.raises(ValueError, match="folder must hold a run of fit to resume, got checkpoints of another program"):
        check_run(tmp_path, {}, run)
