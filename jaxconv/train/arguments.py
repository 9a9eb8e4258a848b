"""Checks of the arguments that training takes: an error names the argument, the expected value and the received one."""

import datetime
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxconv.metrics import Metric
from jaxconv.structs import struct_of
from jaxconv.train import layout, leaves
from jaxconv.train.measures import Loss, Metrics, check_name, indexes_classes, with_accuracy


def check_arrays(tree: Any, name: str = "inputs", *, count: int | None = None) -> int:
    """The number of examples in a pytree of arrays that share their first axis: at least one; or ``count``."""
    found = jax.tree_util.tree_leaves_with_path(tree)
    if not found:
        raise ValueError(f"{name} must be an array, or a pytree of arrays, got {_kind(tree)}")
    for path, leaf in found:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if not getattr(leaf, "ndim", 0) or not len(leaf):
            got = getattr(leaf, "shape", _kind(leaf))
            raise ValueError(f"{where} must be an array with at least one example on its first axis, got {got}")
        count = len(leaf) if count is None else count
        if len(leaf) != count:
            raise ValueError(f"{where} must have {count} examples, as the inputs have, got shape {tuple(leaf.shape)}")
    assert count is not None
    return count


def check_data(inputs: Any, targets: Any, name: str = "") -> int:
    """The number of examples, of each of which there are inputs and targets."""
    prefix = f"{name} " if name else ""
    count = check_arrays(inputs, f"{prefix}inputs")
    if targets is None:
        raise ValueError(f"{prefix}targets must have {count} examples, as the inputs have, got None")
    check_arrays(targets, f"{prefix}targets", count=count)
    return count


def check_batch_size(batch_size: Any, count: int | None = None) -> int:
    """``batch_size``, a positive int, and not above the number of examples to train on."""
    batch_size = check_positive("batch_size", batch_size)
    if count is not None and batch_size > count:
        raise ValueError(f"batch_size must be at most {count}, the number of training examples, got {batch_size}")
    return batch_size


def check_positive(name: str, value: Any) -> int:
    """``value``, an int of 1 or more; those of NumPy as Python's, which JSON has."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be an int of 1 or more, got {value!r}")
    return int(value)


def check_every(every: Any) -> int | datetime.timedelta | None:
    """``every`` is a positive int, a positive timedelta, or None."""
    if isinstance(every, datetime.timedelta) and jax.process_count() > 1:
        raise ValueError(f"checkpoint_every must be an int, of steps, where there are several processes, got {every!r}")
    if every is None or (isinstance(every, datetime.timedelta) and every > datetime.timedelta()):
        return every  # type: ignore[no-any-return]
    if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
        raise ValueError(f"checkpoint_every must be a positive int, of steps, or a positive timedelta, got {every!r}")
    return int(every)


def is_masked(batch: Any) -> bool:
    """Whether a batch is (inputs, targets, mask)."""
    return isinstance(batch, tuple | list) and len(batch) == 3 and str(getattr(batch[2], "dtype", "")) == "bool"


def check_pair(batch: Any, name: str) -> tuple[Any, Any]:
    """A batch of an iterable as (inputs, targets), pytrees of arrays of NumPy or JAX that share the first axis.

    Of a batch (inputs, targets, mask), the examples at which the mask is False are left out. NumPy's arrays are copied:
    the iterable may fill the same ones again for the next batch, while the device still reads them.
    """
    masked = is_masked(batch)
    if not masked and (not isinstance(batch, tuple | list) or len(batch) != 2):
        kind = f"{_kind(batch)} of {len(batch)}" if isinstance(batch, tuple | list) else _kind(batch)
        raise ValueError(f"{name} must be arrays, with targets, or give batches (inputs, targets), got {kind}")
    pair = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) else np.array(np.asarray(leaf)), tuple(batch[:2])
    )
    if masked and not np.any(batch[2]):
        raise ValueError(f"{name}: the mask of a batch must be True for at least one example, got none")
    if masked and not np.all(batch[2]):
        pair = jax.tree.map(lambda leaf: leaf[np.asarray(batch[2])], pair)
    for path, leaf in jax.tree_util.tree_leaves_with_path(pair):
        if leaf.dtype.kind in "OSU":
            raise ValueError(f"{name}: a batch must hold numbers, got {leaf.dtype} at {jax.tree_util.keystr(path)}")
    check_arrays(pair[1], f"{name}: targets", count=check_arrays(pair[0], f"{name}: inputs"))
    return pair[0], pair[1]


def check_batches_tree(batch: Any, like: Any, *, name: str, step: int) -> None:
    """A batch has the structure, element types and shapes of the first one, but for the number of examples."""
    if same_structure(batch, like):
        pairs = zip(jax.tree.leaves(batch), jax.tree.leaves(like), strict=True)
        if all(leaf.shape[1:] == one.shape[1:] and _dtype(leaf) == one.dtype for leaf, one in pairs):
            return
    was, now = (
        leaves.specs({p: struct_of(x.shape, x.dtype) for p, x in leaves.flatten(t).items()}) for t in (like, batch)
    )
    for path in [*was, *(path for path in now if path not in was)]:
        one, other = was.get(path), now.get(path)
        if one is None or other is None or (one[0], one[1][1:]) != (other[0], other[1][1:]):
            part, _, rest = path.partition("/")
            where = ("inputs", "targets")[int(part)] + (f" at {rest}" if rest else "")
            raise ValueError(f"{name}: {where} must be {_spec(one)}, as in batch 1, got {_spec(other)} in batch {step}")
    raise ValueError(f"{name}: batch {step} must have the structure of the first, got {jax.tree.structure(batch)}")


def check_loss(loss: Loss, metrics: Metrics, outputs: Any, targets: Any, *, name: str = "") -> dict[str, Any]:
    """The shapes of what the loss and the metrics make of outputs and targets, all of which are given by shapes."""
    prefix = f"{name} " if name else ""
    rows = len(jax.tree.leaves(targets)[0])
    try:
        values = jax.eval_shape(loss, outputs, targets)
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{prefix}targets must be what {getattr(loss, '__qualname__', loss)} takes beside outputs "
            f"{_described(outputs)}, got {_described(targets)}: {layout.brief(error)}"
        ) from error
    named: dict[str, Any] = {}
    if isinstance(values, tuple) and len(values) == 2 and isinstance(values[1], dict):
        values, named = values
        for key in named:
            check_name(key, "loss")
    if not hasattr(values, "shape") or values.shape[:1] not in ((), (rows,)):
        got = _described(values) if hasattr(values, "shape") else _kind(values)
        raise ValueError(f"loss must return a scalar, a value for each of {rows} examples, or (loss, dict), got {got}")
    found = {"loss": values, **named}
    for key, metric in with_accuracy(loss, metrics, outputs, targets):
        if key in found:
            raise ValueError(f"metrics: a name must be none of those that loss returns, got {key!r}")
        found[key] = jax.eval_shape(metric.update if isinstance(metric, Metric) else metric, outputs, targets)
    for key, value in found.items():
        if isinstance(dict(metrics).get(key), Metric):
            continue
        if not hasattr(value, "shape") or value.shape[:1] not in ((), (rows,)):
            got = _described(value) if hasattr(value, "shape") else _kind(value)
            raise ValueError(f"{key} must be a scalar or a value for each of {rows} examples, got {got}")
    return found


def check_classes(loss: Loss, metrics: Metrics, outputs: Any, targets: Any, *, name: str = "") -> None:
    """Targets that are known to index classes stay within them; ``outputs`` may be given by their shapes.

    All targets are read once, where they are: NumPy's on the host, a sharded array's on its devices.
    """
    if not hasattr(targets, "shape") or not hasattr(outputs, "shape") or not targets.size:
        return
    some = struct_of((*outputs.shape[:1], *targets.shape[1:]), targets.dtype)
    if not indexes_classes(loss, metrics, outputs, some):
        return
    classes = outputs.shape[-1]
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        prefix = f"{name} " if name else ""
        raise ValueError(f"{prefix}targets must be 0 to {classes - 1} for {classes} classes, got {low} to {high}")


def check_folder(folder: str | os.PathLike[str], *, resume: bool) -> Path:
    """The absolute folder: without a checkpoint, unless a run is resumed; never with what is not a run's.

    What systems leave behind, such as ``.DS_Store``, is passed over: `jaxconv.leftovers`.
    """
    path = Path(folder).absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"folder must be a folder, got a file: {path}")
    if foreign := layout.foreign(path):
        raise ValueError(f"folder must hold nothing but a run of fit, got {foreign!r} in {path}")
    if layout.epochs(path) and not resume:
        raise ValueError(f"folder must be new, or resume=True, got {path}, which holds a run")
    return path


def check_run(path: Path, saved: dict[str, Any], run: dict[str, Any]) -> None:
    """A resumed run has the data, batch size and key it began with: otherwise it would be another run."""
    if not saved:
        raise ValueError(f"folder must hold a run of fit to resume, got checkpoints of another program in {path}")
    for name in run:
        if saved.get(name) != run[name]:
            raise ValueError(f"{name} must be {saved.get(name)}, as in the run that {path} holds, got {run[name]}")


def same_structure(tree: Any, other: Any) -> bool:
    """Whether two pytrees have the same structure."""
    return bool(jax.tree.structure(tree) == jax.tree.structure(other))  # type: ignore[operator]


def _dtype(leaf: Any) -> Any:
    return struct_of((), leaf.dtype).dtype


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _described(tree: Any) -> str:
    return ", ".join(_spec([str(leaf.dtype), leaf.shape]) for leaf in jax.tree.leaves(tree))


def _spec(spec: Any) -> str:
    return f"{spec[0]} {tuple(spec[1])}" if spec else "nothing"
