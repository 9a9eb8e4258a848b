"""Programs that read kernels in a library's order, stored once, for predictions with weights that do not change."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxconv.ops.lowering.fused import choose, fused_p
from jaxconv.ops.lowering.packed import Order, orders, packed, product_of
from jaxconv.ops.lowering.target import Platform
from jaxconv.ops.memory import copied


class FeaturesFirst:
    """The order in which cuDNN reads the kernel ``(*window, in, out)`` of a convolution: its last axis is the first."""

    @staticmethod
    def pack(kernel: np.ndarray) -> np.ndarray:
        return copied(np.moveaxis(kernel, -1, 0))

    @staticmethod
    def unpack(array: Any, shape: tuple[int, ...]) -> Any:
        """Returns the kernel of this shape; XLA reads it without a copy."""
        return array.transpose((*range(1, len(shape)), 0))


@dataclass(frozen=True)
class Stored:
    """A weight as a program reads it.

    Args:
      leaf: its position among the weights.
      order: the order of its elements, or None for those of the array as it is.
    """

    leaf: int
    order: Order | type[FeaturesFirst] | None

    def array(self, weight: np.ndarray) -> np.ndarray:
        """Returns the elements of a weight in the stored order."""
        return weight if self.order is None else self.order.pack(weight)

    def weight(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the weight from what `array` returned."""
        return array if self.order is None else self.order.unpack(array, shape)


def pack(traced: Any, platform: Platform) -> tuple[Callable[..., Any], list[Stored]]:
    """Returns a function that computes the same as a program from stored weights, and the list of these weights.

    Args:
      traced: by `jax.jit`, a function of weights and an input; fused, see `jaxconv.fusing.fuse`.
      platform: what the program is for.

    Returns:
      A function of a list of arrays and of the input, and what each of these arrays is.
    """
    closed, (weights, _) = traced.jaxpr, traced.in_avals[0]
    jaxpr, given = closed.jaxpr, len(jax.tree.leaves(weights))
    leaf = {v: i for i, v in enumerate(jaxpr.invars[:given])}
    calls: dict[int, Any] = {}
    kernels: dict[int, Stored] = {}
    for eqn in jaxpr.eqns:
        if eqn.primitive is fused_p and eqn.invars[1] in leaf:
            found = choose(platform, None, eqn.invars[0].aval, eqn.invars[1].aval, eqn.params["conv"])
            call = product_of(found, eqn.params["epilogue"])
            if call is not None:
                calls[id(eqn)] = found.problem, call
            elif platform.features_first and eqn.params["conv"] is not None:
                kernels[id(eqn)] = Stored(leaf[eqn.invars[1]], FeaturesFirst)
    order = orders(call for _, call in calls.values())
    calls = {key: (p, call) for key, (p, call) in calls.items() if call in order}
    for eqn in jaxpr.eqns:
        if id(eqn) in calls:
            kernels[id(eqn)] = Stored(leaf[eqn.invars[1]], order[calls[id(eqn)][1]])

    plain = [v for eqn in jaxpr.eqns for v in eqn.invars if id(eqn) not in kernels or v is not eqn.invars[1]]
    read = {v for v in [*plain, *jaxpr.outvars] if not isinstance(v, core.Literal)}
    wanted = [Stored(leaf[v], None) for v in jaxpr.invars[:given] if v in read]
    wanted += dict.fromkeys(kernels[id(eqn)] for eqn in jaxpr.eqns if id(eqn) in kernels)

    def run(arrays: Sequence[Any], x: Any) -> Any:
        stored = dict(zip(wanted, arrays, strict=True))
        values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        values |= zip(jaxpr.invars[given:], jax.tree.leaves(x), strict=True)
        values |= {v: stored[Stored(i, None)] for v, i in leaf.items() if v in read}

        def value(v: Any) -> Any:
            return v.val if isinstance(v, core.Literal) else values[v]

        for eqn in jaxpr.eqns:
            kernel = kernels.get(id(eqn))
            operands = [stored[kernel] if kernel and i == 1 else value(v) for i, v in enumerate(eqn.invars)]
            if id(eqn) in calls:
                results = [packed(*calls[id(eqn)], *operands)]
            else:
                if kernel:
                    operands[1] = FeaturesFirst.unpack(operands[1], eqn.invars[1].aval.shape)
                results = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
                results = results if eqn.primitive.multiple_results else [results]
            values.update(zip(eqn.outvars, results, strict=True))
        return jax.tree.unflatten(jax.tree.structure(traced.out_info), [value(v) for v in jaxpr.outvars])

    return run, wanted


__all__ = ["pack"]
