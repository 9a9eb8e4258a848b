"""Gradient descent on images: the loop of maximize, dream, invert and style_transfer."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.compiler import jit
from jaxconv.errors import ArgumentError
from jaxconv.extras import need
from jaxconv.geometry import as_int
from jaxconv.inspect.arguments import check_outside
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Array, Tree

OnStep = Callable[[int, float], None]

# Steps between two checks that all values are finite: a check waits for the device.
_LOOK = 16


class NonFiniteGradientError(FloatingPointError):
    """A loss, its gradient or an update became infinite or NaN, and the descent has stopped.

    Args:
      what: the name of the function that descends.
      step: the step with the value that is not finite, from 1.
      steps: the planned number of steps.
    """

    def __init__(self, what: str, step: int, steps: int):
        super().__init__(f"{what}: the gradient or the step is not finite at step {step} of {steps}")
        self.step, self.steps = step, steps


def import_optax() -> Any:
    """Returns optax, or raises an error that names the extra."""
    return need("optax", "the optimization of images", "train")


def check_rate(rate: float) -> float:
    """Returns ``rate``, or raises ArgumentError where it is not a positive number."""
    if not 0 < rate < math.inf:
        raise ArgumentError(f"rate must be a positive number, got {rate}")
    return rate


@functools.cache
def adam(rate: float) -> Any:
    """Returns Optax's Adam, the same object each time, so that a compiled step is used again."""
    return import_optax().adam(check_rate(rate))


@functools.partial(jit, static_argnums=(0, 1), donate_argnums=2)
def _step(loss: Callable, optimizer: Any, carry: Tree, data: Tree, key: Array) -> tuple[Tree, Array]:
    z, opt_state, step, bad, unmoved = carry

    def objective(z: Tree) -> Array:
        return loss(z, data, jax.random.fold_in(key, step))

    value, grad = jax.value_and_grad(objective)(z)
    optimizer = import_optax().with_extra_args_support(optimizer)
    updates, new_state = optimizer.update(grad, opt_state, z, value=value, grad=grad, value_fn=objective)
    new = import_optax().apply_updates(z, updates), new_state
    seen = (value, *jax.tree.leaves((grad, new[0])))
    finite = functools.reduce(jnp.logical_and, [jnp.isfinite(a).all() for a in seen])
    bad = jnp.where(finite | (bad >= 0), bad, step)
    unmoved = jax.tree.map(lambda u, g: u & (g == 0).all(axis=tuple(range(1, g.ndim))), unmoved, grad)
    return (*jax.tree.map(lambda a, b: jnp.where(bad < 0, a, b), new, (z, opt_state)), step + 1, bad, unmoved), value


class Descent:
    """A descent in progress, which may minimize one loss and then another.

    Args:
      z, optimizer, steps, key, what, on_step: as in `minimize`.

    Attributes:
      losses: the loss before each step.
    """

    def __init__(
        self, z: Tree, optimizer: Any, steps: int, *, key: KeyLike, what: str, on_step: OnStep | None = None
    ) -> None:
        self.optimizer, self.steps, self.key, self.what, self.on_step = optimizer, steps, as_key(key), what, on_step
        self.losses: list[Array] = []
        self._carry: Any = jax.tree.map(lambda a: jnp.array(a, copy=True), (z, optimizer.init(z), 0, -1))

    @property
    def z(self) -> Tree:
        """The present values."""
        return self._carry[0]

    def run(self, loss: Callable[[Tree, Tree, Array], Array], data: Tree, steps: int) -> Tree:
        """Takes steps, and returns for each leaf, along its first axis, whether its gradient was zero at all steps.

        Raises:
          NonFiniteGradientError: as `minimize`.
        """
        carry = (*self._carry, jax.tree.map(lambda a: jnp.ones(a.shape[:1], bool), self.z))
        last = len(self.losses) + steps
        for step in range(len(self.losses) + 1, last + 1):
            carry, value = _step(loss, self.optimizer, carry, data, self.key)
            self.losses.append(value)
            if self.on_step is not None or step % _LOOK == 0 or step == last:
                bad = int(carry[3])
                if bad >= 0:
                    raise NonFiniteGradientError(self.what, bad + 1, self.steps)
                if self.on_step is not None:
                    self.on_step(step, float(value))
        *self._carry, unmoved = carry
        return unmoved


def minimize(
    loss: Callable[[Tree, Tree, Array], Array],
    z: Tree,
    data: Tree,
    optimizer: Any,
    steps: int,
    *,
    key: KeyLike,
    what: str,
    on_step: OnStep | None = None,
) -> tuple[Tree, Array]:
    """Minimizes a loss over ``z``: one compiled step in a Python loop.

    Args:
      loss: ``loss(z, data, key)``, a scalar. Losses are hashable, and equal where they compute the same: one compiled
        step serves all calls with equal losses, the same optimizer and the same shapes.
      z: a pytree of arrays.
      data: a pytree of arrays that are constant.
      optimizer: an Optax transformation; one with a line search receives the loss function.
      steps: the number of steps.
      key: a random key; each step folds its number into it.
      what: the name of the calling function, for errors and warnings.
      on_step: called after each step with the step's number, from 1, and the loss before the step.

    Returns:
      The final z, and the losses, ``(steps,)``. A gradient that is zero at all steps gives a warning.

    Raises:
      NonFiniteGradientError: the loss, its gradient or the updated z is not finite; the error names the step.
    """
    check_outside("minimize", z, data, inside="jax.value_and_grad of the loss")
    steps = as_int(steps, "steps", least=1)
    descent = Descent(z, optimizer, steps, key=key, what=what, on_step=on_step)
    unmoved = descent.run(loss, data, steps)
    if all(leaf.all() for leaf in jax.tree.leaves(unmoved)):
        warnings.warn(f"{what}: the gradient is zero at each of the {steps} steps: nothing has changed", stacklevel=2)
    return descent.z, jnp.stack(descent.losses)


__all__ = ["NonFiniteGradientError", "minimize"]
