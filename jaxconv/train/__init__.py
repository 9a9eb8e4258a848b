"""Training: one jitted step, a loop over epochs, exact evaluation, and checkpoints that survive a crash.

Optimizers and losses are Optax's, checkpoints are Orbax's. `fit` trains on arrays that fit on the device or on an
iterable of batches; `train_step` is the piece to bring into a custom loop.
"""

from jaxconv.extras import missing as _missing

if _error := _missing("jaxconv.train", "optax", "orbax.checkpoint", "tqdm", extra="train"):
    raise _error

from jaxconv.train.checkpoint import restore, save
from jaxconv.train.evaluation import evaluate, predict
from jaxconv.train.logs import csv_file, early_stopping, json_lines, tensorboard
from jaxconv.train.loop import fit
from jaxconv.train.loss_scale import dynamic_loss_scale
from jaxconv.train.mesh import data_shard
from jaxconv.train.processes import initialize_distributed
from jaxconv.train.progress import NonFiniteLossError
from jaxconv.train.result import FitResult
from jaxconv.train.state import TrainState
from jaxconv.train.step import steps_per_epoch, train_step
from jaxconv.train.tiles import predict_tiled

__all__ = [
    "FitResult",
    "NonFiniteLossError",
    "TrainState",
    "csv_file",
    "data_shard",
    "dynamic_loss_scale",
    "early_stopping",
    "evaluate",
    "fit",
    "initialize_distributed",
    "json_lines",
    "predict",
    "predict_tiled",
    "restore",
    "save",
    "steps_per_epoch",
    "tensorboard",
    "train_step",
]


def __dir__() -> list[str]:
    return sorted(__all__)
