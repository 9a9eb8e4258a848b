"""What a run's folder says for people: run.json, its configuration and history, and curves.png."""

import datetime
import functools
import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxconv.train import layout
from jaxconv.train.result import Record


def configuration(**arguments: Any) -> dict[str, Any]:
    """The arguments of a run and its environment, as JSON has them."""
    import jaxconv

    device = jax.devices()[0]
    return {
        **{name: described(value) for name, value in arguments.items()},
        "device": f"{device.platform}: {device.device_kind}",
        "versions": {"jaxconv": jaxconv.__version__, "jax": jax.__version__},
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def described(value: Any) -> Any:
    """A value as JSON has it: functions by name, arrays by shape, other things by ``repr``."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(name): described(one) for name, one in value.items()}
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [described(one) for one in value]
    if isinstance(value, functools.partial):
        return f"partial of {described(value.func)}"
    if isinstance(value, optax.GradientTransformation):
        return described(value.update)
    name = getattr(value, "__qualname__", None)
    if name is not None:
        return f"{getattr(value, '__module__', '')}.{name}"
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)


def write_run(path: Path, config: dict[str, Any], history: Sequence[Record]) -> None:
    """Writes run.json, whole or not at all. Raises OSError, which says so."""
    rows = ",\n".join(f"    {json.dumps(record)}" for record in history)
    config_text = json.dumps(config, indent=2).replace("\n", "\n  ")
    text = f'{layout.RUN_BEGINS},\n  "configuration": {config_text},\n  "history": [\n{rows}\n  ]\n}}\n'
    partial = path / f".{layout.RUN}.partial"
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path / layout.RUN)
    except OSError as error:
        raise OSError(
            f"{path}: {layout.RUN} could not be saved, the checkpoints are untouched: {error.strerror}"
        ) from error


def draw_curves(path: Path, history: Sequence[Record]) -> None:
    """Writes curves.png, of two epochs or more, where Matplotlib is installed."""
    if len(history) < 2 or importlib.util.find_spec("matplotlib") is None:
        return
    from jaxconv.inspect.figures import learning_curves

    learning_curves(history).savefig(path / layout.CURVES, dpi=100)
