"""One step of training: gradient, update, metrics. The loop of `fit` and a loop of one's own run the same function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess
from jaxconv.layer import Layer
from jaxconv.ops.arrays import wider
from jaxconv.train.state import Augment, Loss, TrainState, strong

Metrics = dict[str, jax.Array]
Step = Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]

# In the order in which they are shown; a dict that comes out of jit is sorted by name.
METRICS = ("loss", "accuracy", "grad_norm")


def train_step(
    net: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    augment: Augment | None = None,
    preprocess: Preprocess | None = None,
    donate: bool = True,
) -> Step:
    """A jitted function that takes one training step.

    What is random comes from ``fold_in(train_state.key, train_state.step)``: one half for ``augment``, the other for
    the network. So a step depends on its number and not on how training got there.

    Args:
      net: a layer.
      loss: ``loss(logits, labels)``, a loss for each example or a scalar; the mean is minimized. Optax's losses fit.
      optimizer: an Optax transformation. It is given ``value=loss``, for those that ask for it.
      augment: ``augment(key, x)``, random changes of a batch, after ``preprocess``.
      preprocess: ``preprocess(images)``, such as a cast and normalization, run inside the step.
      donate: whether the old train state's buffers are reused for the new one, so that two need not be held. The old
        state is gone after the call.

    Returns:
      ``step(train_state, images, labels) -> (train_state, metrics)``. ``metrics`` holds scalars on the device: loss,
      grad_norm, and accuracy where the labels are ints and the logits have one more axis, the classes.

    Some optimizers skip a step whose gradients are not finite: `optax.apply_if_finite`, or `optax.MultiSteps` with
    `optax.skip_not_finite`. Such a step leaves the layer state too as it was, so one batch that overflows does not
    stay in the batch statistics; ``step`` and the optimizer's own counts go on. Of a step that was skipped grad_norm is
    not finite. The loss may be: compiled by XLA for CPU, a ReLU or a maximum may turn NaN into a number, so a finite
    loss does not show that all went well.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, optax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Linear:
      ...     def init(self, key, x):
      ...         return {"kernel": jnp.zeros((x.shape[-1], 2))}, {}
      ...     def apply(self, params, state, x, *, train=False, key=None):
      ...         return x @ params["kernel"], state
      >>> x, y = jnp.eye(2), jnp.arange(2)
      >>> optimizer = optax.sgd(1.0)
      >>> step = train_step(Linear(), optax.softmax_cross_entropy_with_integer_labels, optimizer)
      >>> train_state = TrainState.create(Linear(), optimizer, 0, x)
      >>> for _ in range(2):
      ...     train_state, metrics = step(train_state, x, y)
      >>> print(f"{metrics['loss']:.3f} {metrics['accuracy']:.0%}")
      0.474 100%
    """
    step = raw_step(net, loss, optimizer, augment=augment, preprocess=preprocess)
    return jit(step, donate_argnums=0 if donate else ())


def raw_step(
    net: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    augment: Augment | None = None,
    preprocess: Preprocess | None = None,
) -> Step:
    """`train_step` before jit, to be put inside a larger compiled function."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(train_state: TrainState, images: Any, labels: jax.Array) -> tuple[TrainState, Metrics]:
        augment_key, net_key = jax.random.split(jax.random.fold_in(train_state.key, train_state.step))
        x = images if preprocess is None else preprocess(images)
        x = x if augment is None else augment(augment_key, x)

        def objective(params: Any) -> tuple[jax.Array, tuple[Any, Any]]:
            logits, state = net.apply(params, train_state.state, x, train=True, key=net_key)
            return mean(loss(logits, labels)), (logits, state)

        (value, (logits, state)), grads = jax.value_and_grad(objective, has_aux=True)(train_state.params)
        updates, opt_state = optimizer.update(grads, train_state.opt_state, train_state.params, value=value)
        params = optax.apply_updates(train_state.params, updates)
        norm = optax.tree.norm(jax.tree.map(_wide, grads))
        skipped = ~jnp.isfinite(norm) & _all_zero(updates)
        state = jax.tree.map(lambda new, old: jnp.where(skipped, old, new), state, train_state.state)
        metrics = {"loss": value, "grad_norm": norm}
        if is_classification(logits, labels):
            metrics["accuracy"] = mean(jnp.argmax(logits, -1) == labels)
        return strong(TrainState(params, state, opt_state, train_state.step + 1, train_state.key)), metrics

    return step


def steps_per_epoch(count: int, batch: int) -> int:
    """How many steps `fit` takes to see ``count`` images once, the last, filled up batch included.

    Example:
      >>> steps_per_epoch(4000, 128)
      32
    """
    return -(-count // batch)


def is_classification(logits: Any, labels: Any) -> bool:
    """Whether ``labels`` are the indices of classes on the last axis of ``logits``: then there is an accuracy."""
    return (
        hasattr(logits, "ndim")
        and jnp.issubdtype(labels.dtype, jnp.integer)
        and tuple(labels.shape) == tuple(logits.shape[:-1])
        and logits.shape[-1] > 1
    )


def mean(values: jax.Array) -> jax.Array:
    """The mean, accumulated in float32 at least."""
    return jnp.mean(_wide(values))


def _wide(values: jax.Array) -> jax.Array:
    """The values in float32 at least: squares of float16 overflow from 256 on."""
    return values.astype(wider(values.dtype, jnp.float32))


def _all_zero(updates: Any) -> jax.Array:
    """Whether nothing is updated, by the three smallest arrays: an optimizer skips all or none; these cost least."""
    smallest = sorted((leaf for leaf in jax.tree.leaves(updates) if leaf.size), key=lambda leaf: leaf.size)[:3]
    return ~functools.reduce(jnp.logical_or, [jnp.any(leaf != 0) for leaf in smallest], jnp.zeros((), bool))
