"""Errors at the door: each names the argument, what was expected and what came."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxconv.structs import struct_of
from jaxconv.train import layout
from jaxconv.train.state import Loss
from jaxconv.train.step import is_classification


def check_arrays(images: Any, labels: Any = None, *, labelled: bool = False, name: str = "") -> int:
    """The number of images, where there is at least one and, if they are ``labelled``, as many labels."""
    prefix = f"{name} " if name else ""
    if not getattr(images, "ndim", 0) or not len(images):
        shape = getattr(images, "shape", type(images).__name__)
        raise ValueError(f"{prefix}images: expected an array with at least one image on its first axis, got {shape}")
    if labelled and (not getattr(labels, "ndim", 0) or len(labels) != len(images)):
        shape = getattr(labels, "shape", type(labels).__name__)
        raise ValueError(f"{prefix}labels: expected {len(images)}, one for each image, got {shape}")
    return len(images)


def check_batch(batch: int, count: int | None = None) -> None:
    """``batch`` is a positive int, and not above the number of images to train on."""
    check_positive("batch", batch)
    if count is not None and batch > count:
        raise ValueError(f"batch: expected at most {count}, the number of training images, got {batch}")


def check_positive(name: str, value: Any) -> None:
    """``value`` is an int of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name}: expected an int of 1 or more, got {value!r}")


def check_labels(logits: Any, labels: Any, loss: Loss, *, name: str = "") -> None:
    """The loss takes the labels, and labels that index classes stay within them.

    ``logits`` are the shapes of the network's output for one batch, so nothing is computed but the labels' range,
    where the labels are: NumPy's on the host, a sharded array's on its devices.
    """
    prefix = f"{name} " if name else ""
    outputs = jax.tree.leaves(logits)
    some = struct_of((*outputs[0].shape[:1], *labels.shape[1:]), labels.dtype)
    try:
        values = jax.eval_shape(loss, logits, some)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{prefix}labels: expected what {getattr(loss, '__qualname__', loss)} takes beside an output of "
            f"{', '.join(f'{leaf.dtype} {leaf.shape}' for leaf in outputs)}, got {some.dtype} {some.shape}: {error}"
        ) from error
    if not hasattr(values, "shape") or values.shape[:1] not in ((), some.shape[:1]):
        raise ValueError(f"loss: expected a scalar or {some.shape[0]} values, one for each image, got {values}")
    if is_classification(logits, some):
        classes = logits.shape[-1]
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(f"{prefix}labels: expected 0 to {classes - 1} for {classes} logits, got {low} to {high}")


def check_folder(folder: str | os.PathLike[str], *, resume: bool) -> Path:
    """The absolute folder: without a checkpoint, unless a run is resumed; never with what is not a run's.

    What systems leave behind, such as ``.DS_Store``, is passed over: `jaxconv.leftovers`.
    """
    path = Path(folder).absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"folder: expected a folder, got a file: {path}")
    if foreign := layout.foreign(path):
        raise ValueError(f"folder: expected nothing but checkpoints in {path}, got {foreign!r}")
    if layout.epochs(path) and not resume:
        raise ValueError(f"folder: {path} holds a run already; expected resume=True or another folder")
    return path


def check_run(path: Path, saved: dict[str, Any], run: dict[str, Any]) -> None:
    """A resumed run has the data, batch and key it began with: otherwise it would be another run."""
    if not saved:
        raise ValueError(f"folder: expected a run of fit to resume, got checkpoints of another program in {path}")
    for name in run:
        if saved.get(name) != run[name]:
            raise ValueError(f"{name}: expected {saved.get(name)}, as in the run that {path} holds, got {run[name]}")
