"""The loop that all optimised images share: a gradient, an Optax update, a stop where one of them is not finite."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.compiler import jit
from jaxconv.errors import ShapeError
from jaxconv.geometry import as_int
from jaxconv.inspect.arguments import check_outside
from jaxconv.layer import Array, Tree

OnStep = Callable[[int, float], None]

# Steps between two looks at whether all went well: a look waits for the device.
_LOOK = 16


class NonFiniteGradientError(FloatingPointError):
    """A loss, its gradient or the step along it became infinite or NaN; the search for an image has stopped.

    Args:
      what: what was searched for.
      step: the step at which it came, from 1.
      steps: how many there were to be.
    """

    def __init__(self, what: str, step: int, steps: int):
        super().__init__(f"{what}: the gradient or the step is not finite at step {step} of {steps}")
        self.step, self.steps = step, steps


def import_optax() -> Any:
    """Returns the module, or raises ImportError that names the extra."""
    try:
        import optax
    except ImportError as error:
        raise ImportError("optimised images need optax: pip install 'jaxconv[train]'") from error
    return optax


def check_rate(rate: float) -> float:
    """Returns ``rate``, or raises ShapeError where it is no positive number."""
    if not 0 < rate < math.inf:
        raise ShapeError(f"rate must be a positive number, got {rate}")
    return rate


@functools.cache
def adam(rate: float) -> Any:
    """Returns Optax's Adam, the same object each time: with it a compiled step is found again."""
    return import_optax().adam(check_rate(rate))


@functools.partial(jit, static_argnums=(0, 1), donate_argnums=2)
def _step(loss: Callable, optimizer: Any, carry: Tree, data: Tree, key: Array) -> tuple[Tree, Array]:
    z, opt_state, step, bad = carry

    def objective(z: Tree) -> Array:
        return loss(z, data, jax.random.fold_in(key, step))

    value, grad = jax.value_and_grad(objective)(z)
    optimizer = import_optax().with_extra_args_support(optimizer)
    updates, new_state = optimizer.update(grad, opt_state, z, value=value, grad=grad, value_fn=objective)
    new = import_optax().apply_updates(z, updates), new_state
    seen = (value, *jax.tree.leaves((grad, new[0])))
    finite = functools.reduce(jnp.logical_and, [jnp.isfinite(a).all() for a in seen])
    bad = jnp.where(finite | (bad >= 0), bad, step)
    return (*jax.tree.map(lambda a, b: jnp.where(bad < 0, a, b), new, (z, opt_state)), step + 1, bad), value


def minimise(
    loss: Callable[[Tree, Tree, Array], Array],
    z: Tree,
    data: Tree,
    optimizer: Any,
    steps: int,
    *,
    key: Array,
    what: str,
    on_step: OnStep | None = None,
) -> tuple[Tree, Array]:
    """Moves ``z`` so as to lower a loss; one compiled step in a loop of Python.

    Args:
      loss: ``loss(z, data, key)``, a scalar; hashable, and equal to another that computes the same: a compiled step
        serves all calls with equal losses, the same optimizer and the same shapes.
      z: a pytree of arrays.
      data: a pytree of arrays that stay as they are.
      optimizer: an Optax transformation; those with a line search get what they ask for.
      steps: how many.
      key: a step's key is made of it and of the step's number.
      what: what is searched for, for the error.
      on_step: called after each step with its number, from 1, and the loss before it.

    Returns:
      The moved z, and the losses, ``(steps,)``.

    Raises:
      NonFiniteGradientError: the loss, its gradient or the moved z is not finite; it names the step.
    """
    check_outside("minimise", z, data, inside="jax.value_and_grad of the loss")
    steps = as_int(steps, "steps", least=1)
    carry = jax.tree.map(lambda a: jnp.array(a, copy=True), (z, optimizer.init(z), 0, -1))
    losses = []
    for step in range(1, steps + 1):
        carry, value = _step(loss, optimizer, carry, data, key)
        losses.append(value)
        if on_step is not None or step % _LOOK == 0 or step == steps:
            bad = int(carry[3])
            if bad >= 0:
                raise NonFiniteGradientError(what, bad + 1, steps)
            if on_step is not None:
                on_step(step, float(value))
    return carry[0], jnp.stack(losses)


__all__ = ["NonFiniteGradientError", "minimise"]
