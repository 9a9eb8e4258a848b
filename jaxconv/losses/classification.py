"""Losses of classification: a value for each logit, in float32 for half precision."""

import jax

from jaxconv.errors import ArgumentError
from jaxconv.losses.base import check_same_shape, wide
from jaxconv.ops.arrays import Array, ArrayLike, as_floats


def sigmoid_focal_loss(
    logits: ArrayLike, targets: ArrayLike, *, alpha: float | None = 0.25, gamma: float = 2.0
) -> Array:
    """Returns the binary cross-entropy times a factor that is small where the prediction is right (Lin et al., 2017).

    Args:
      logits: floating-point array ``(...)``.
      targets: floating-point array of the same shape: 1 for the class, 0 for others, or between.
      alpha: the weight of targets of 1, against ``1 - alpha`` of those of 0; None weights neither.
      gamma: the exponent of the factor ``1 - p``; 0 gives the cross-entropy.

    Returns:
      Array ``(...)``.

    Raises:
      ShapeError: shapes differ.
      ArgumentError: ``alpha`` is not from 0 to 1, or ``gamma`` is negative.

    Equals ``torchvision.ops.sigmoid_focal_loss``.

    >>> sigmoid_focal_loss(jnp.array([0.0, 4.0]), jnp.array([1.0, 1.0])).round(5)
    Array([0.04332, 0.     ], dtype=float32)
    """
    x, t = map(wide, as_floats(logits=logits, targets=targets))
    check_same_shape("targets", t, "logits", x)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ArgumentError(f"alpha must be a number from 0 to 1 or None, got {alpha!r}")
    if not gamma >= 0:
        raise ArgumentError(f"gamma must not be negative, got {gamma!r}")
    yes, no = jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    entropy = -(t * jax.nn.log_sigmoid(x) + (1 - t) * jax.nn.log_sigmoid(-x))
    loss = entropy * (yes * (1 - t) + no * t) ** gamma
    return loss if alpha is None else loss * (alpha * t + (1 - alpha) * (1 - t))


__all__ = ["sigmoid_focal_loss"]
