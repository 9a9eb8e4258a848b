"""A dynamic loss scale for training in float16, as an Optax transformation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class LossScaleState(NamedTuple):
    """The state of `dynamic_loss_scale`.

    Args:
      loss_scale: what the loss is multiplied by, a float32 scalar.
      good_steps: the steps since it changed, an int32 scalar.
      inner: the optimizer's state.
    """

    loss_scale: jax.Array
    good_steps: jax.Array
    inner: Any


def dynamic_loss_scale(
    optimizer: optax.GradientTransformation, *, initial: float = 2.0**15, period: int = 2000, factor: float = 2.0
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that is used with a scaled loss, so that small gradients are not zero in float16.

    `train_step` and `fit` multiply the loss by the scale before they differentiate, and divide the gradients by it; the
    optimizer gets these. A step whose gradients are not finite is skipped: parameters, the layers' state and the
    optimizer's state stay as they were, and the scale is divided by ``factor``, down to 1. After ``period`` steps
    without one it is multiplied by it. The scale is a part of the optimizer's state, and of checkpoints.

    bfloat16 has the exponents of float32 and needs no scale.

    Args:
      optimizer: an Optax transformation.
      initial: the first scale.
      period: the number of good steps after which the scale grows.
      factor: by which it grows and shrinks, above 1.

    Returns:
      An Optax transformation. Wrap whole chains in it, clipping included, not parts of one.

    Raises:
      ValueError: ``initial`` is below 1, ``period`` is not positive, or ``factor`` is not above 1.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> optimizer = dynamic_loss_scale(optax.sgd(0.1), initial=1024.0)
      >>> params = {"kernel": jnp.ones(2)}
      >>> state = optimizer.init(params)
      >>> updates, state = optimizer.update({"kernel": jnp.array([jnp.inf, 1.0])}, state, params)
      >>> updates["kernel"].tolist(), float(state.loss_scale)
      ([0.0, 0.0], 512.0)

    References:
      P. Micikevicius et al., Mixed Precision Training, 2018, https://arxiv.org/abs/1710.03740.
    """
    if initial < 1 or period < 1 or factor <= 1:
        raise ValueError(
            f"initial and period must be at least 1 and factor above 1, got {initial}, {period} and {factor}"
        )
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> LossScaleState:
        return LossScaleState(jnp.float32(initial), jnp.zeros((), jnp.int32), inner.init(params))

    def update(grads: Any, state: LossScaleState, params: Any = None, **extra: Any) -> tuple[Any, LossScaleState]:
        finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads)]).all()
        grads = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), grads)
        updates, new = inner.update(grads, state.inner, params, **extra)
        updates = jax.tree.map(lambda leaf: jnp.where(finite, leaf, 0), updates)
        new = jax.tree.map(lambda one, old: jnp.where(finite, one, old), new, state.inner)
        good = jnp.where(finite, state.good_steps + 1, 0)
        grown = jnp.where(good >= period, state.loss_scale * factor, state.loss_scale)
        scale = jnp.where(finite, grown, jnp.maximum(state.loss_scale / factor, 1.0))
        return updates, LossScaleState(scale, jnp.where(good >= period, 0, good), new)

    return optax.GradientTransformationExtraArgs(init, update)


def loss_scale_of(opt_state: Any) -> jax.Array | None:
    """The scale in an optimizer's state; None where there is none."""
    states = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, LossScaleState))
    return next((state.loss_scale for state in states if isinstance(state, LossScaleState)), None)
