import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxconv.train.checks import check_arrays, check_batch, check_folder, check_labels, check_positive, check_run
from tests.train.toys import cross_entropy

# As a run's folder has them: what systems leave, the lock, and a checkpoint that was being written.
LEFTOVERS = ".DS_Store .ipynb_checkpoints .nfs0012 Thumbs.db desktop.ini lost+found @eaDir .lock .partial-1-ab".split()
LOGITS = jax.ShapeDtypeStruct((4, 3), jnp.float32)


def test_arrays():
    assert check_arrays(np.zeros((5, 2)), np.zeros(5), labelled=True) == check_arrays(np.zeros((5, 2))) == 5
    with pytest.raises(ValueError, match="labels: expected 5, one for each image, got NoneType"):
        check_arrays(np.zeros((5, 2)), None, labelled=True)
    with pytest.raises(ValueError, match=r"validation labels: expected 5, one for each image, got \(4,\)"):
        check_arrays(np.zeros((5, 2)), np.zeros(4), labelled=True, name="validation")
    with pytest.raises(ValueError, match=r"images: expected an array .*, got \(\)"):
        check_arrays(np.float32(0))


def test_numbers():
    check_batch(4, 4)
    check_positive("epochs", np.int64(1))
    with pytest.raises(ValueError, match="batch: expected at most 4, the number of training images, got 5"):
        check_batch(5, 4)
    for value in (0, -1, 1.5, True, "3", None):
        with pytest.raises(ValueError, match="epochs: expected an int of 1 or more, got"):
            check_positive("epochs", value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3, 1]), "train labels: expected 0 to 2 for 3 logits, got 0 to 3"),
        (np.array([-1, 2, 1]), "train labels: expected 0 to 2 for 3 logits, got -1 to 2"),
        (np.array([0.0, 1.0, 2.0], np.float32), r"train labels: expected what softmax_cross\w+ takes .* got float32"),
        (np.zeros((5, 3), np.int32), r"train labels: expected what .* output of float32 \(4, 3\), got int32 \(4, 3\)"),
    ],
)
def test_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(LOGITS, labels, cross_entropy, name="train")


def test_good_labels():
    check_labels(LOGITS, np.array([0, 2], np.uint8), cross_entropy)
    check_labels(LOGITS, np.zeros((7, 3), np.float32), optax.softmax_cross_entropy)
    check_labels({"a": LOGITS}, np.array([9]), lambda y, labels: y["a"].mean() + 0 * labels.sum())


@pytest.mark.parametrize("loss", [lambda y, labels: y[1:, 0], lambda y, labels: (y, labels)])
def test_a_loss_of_the_wrong_form(loss):
    with pytest.raises(ValueError, match="loss: expected a scalar or 4 values, one for each image, got"):
        check_labels(LOGITS, np.zeros(9, int), loss)


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
    with pytest.raises(ValueError, match="holds a run already; expected resume=True or another folder"):
        check_folder(new, resume=False)
    # Folders of ten digits' images are no run.
    (new / "3").mkdir()
    (new / "3" / "a.png").touch()
    with pytest.raises(ValueError, match=r"folder: expected nothing but checkpoints in .*, got '3/a\.png'"):
        check_folder(new, resume=True)
    shutil.rmtree(new / "3")
    (new / "notes.txt").touch()
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"folder: expected nothing but checkpoints in .*, got 'notes\.txt'"):
            check_folder(new, resume=resume)
    with pytest.raises(ValueError, match="folder: expected a folder, got a file"):
        check_folder(new / "notes.txt", resume=False)


def test_run(tmp_path):
    run = {"images": 10, "batch": 4, "key": [0, 1]}
    check_run(tmp_path, dict(run), run)
    with pytest.raises(ValueError, match=r"batch: expected 5, as in the run that .* holds, got 4"):
        check_run(tmp_path, {**run, "batch": 5}, run)
    with pytest.raises(ValueError, match="folder: expected a run of fit to resume, got checkpoints of another program"):
        check_run(tmp_path, {}, run)
