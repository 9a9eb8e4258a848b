"""One step of training: gradient, update, metrics. The loop of `fit` and a custom loop run the same function."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess
from jaxconv.layer import Layer
from jaxconv.metrics import Function, Metric
from jaxconv.ops.arrays import wider
from jaxconv.train.loss_scale import loss_scale_of
from jaxconv.train.measures import Loss, Metrics, as_metrics, mean, means, measure, sums_of, takes_targets
from jaxconv.train.mesh import PlacedStep, Placement, ShardParams, placement_of
from jaxconv.train.state import Augment, TrainState, strong

Measured = dict[str, Any]
Step = Callable[[TrainState, Any, Any], tuple[TrainState, Measured]]


def train_step(
    net: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    metrics: Mapping[str, Function | Metric] = {},
    augment: Augment | None = None,
    preprocess: Preprocess | None = None,
    average: float | None = None,
    donate: bool = True,
    mesh: jax.sharding.Mesh | None = None,
    shard_params: ShardParams = None,
) -> Step:
    """A jitted function that takes one training step.

    What is random comes from ``fold_in(train_state.key, train_state.step)``: one half for ``augment``, the other for
    the network. So a step depends on its number and not on how training got there.

    Args:
      net: a layer.
      loss: ``loss(outputs, targets)``, a scalar or a loss for each example; the mean is minimized. Or a pair of it and
        a dict of more values by name, scalars or one for each example. Optax's losses fit.
      optimizer: an Optax transformation. It is given ``value=loss``, for those that ask for it.
      metrics: by name, ``f(outputs, targets)``, a value for each example or a scalar; or a `jaxconv.metrics.Metric`.
      augment: ``augment(key, x)``, or ``augment(key, x, y) -> (x, y)`` where it has three parameters without default:
        random changes of a batch, after ``preprocess``.
      preprocess: ``preprocess(inputs)``, such as a cast and normalization, run inside the step.
      average: the decay of an exponential moving average of the parameters, ``train_state.average``. In step t, counted
        from 0, it is at most ``(1 + t) / (10 + t)``, so that the initial weights are forgotten. Steps that change
        no parameter leave the average as it is, such as those that `optax.MultiSteps` only accumulates in.
      donate: whether the old train state's buffers are reused for the new one, so that two need not be held. The old
        state is gone after the call.
      mesh: the devices to divide the step over, by the mesh's axis "data": `jaxconv.train.mesh`. The train state and
        the batch may be anywhere; the new state is on the mesh. Of several processes each gives its part of the batch,
        and all of the train state.
      shard_params: how parameters and the optimizer's state are divided: None, on every device; the name of an axis
        of the mesh, such as "data"; ``shard_params(path, shape) -> PartitionSpec``.

    Returns:
      ``step(train_state, inputs, targets) -> (train_state, measured)``. Inputs, targets and outputs are any pytrees.
      ``measured`` is on the device: loss, grad_norm, each metric's mean over the batch, what a `Metric` updates with as
      it is, and accuracy where the loss is Optax's softmax cross entropy with integer labels.

    Some optimizers skip a step whose gradients are not finite: `optax.apply_if_finite`, `dynamic_loss_scale`, or
    `optax.MultiSteps` with `optax.skip_not_finite`. Such a step leaves the layer state too as it was, so one batch that
    overflows does not stay in the batch statistics; ``step`` and the optimizer's own counts go on. Of a step that was
    skipped grad_norm is not finite. The loss may be: compiled by XLA for CPU, a ReLU or a maximum may turn NaN into a
    number, so a finite loss does not show that all went well.

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
      ...     train_state, measured = step(train_state, x, y)
      >>> print(f"{measured['loss']:.3f} {measured['accuracy']:.0%}")
      0.474 100%
    """
    placement = placement_of(mesh, shard_params)
    step = raw_step(
        net,
        loss,
        optimizer,
        metrics=as_metrics(metrics),
        augment=augment,
        preprocess=preprocess,
        average=average,
        placement=placement,
    )
    compiled = jit(step, donate_argnums=0 if donate else ())
    return compiled if placement is None else PlacedStep(compiled, placement)


def raw_step(
    net: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    metrics: Metrics = (),
    augment: Augment | None = None,
    preprocess: Preprocess | None = None,
    average: float | None = None,
    placement: Placement | None = None,
) -> Step:
    """`train_step` before jit, to be put inside a larger compiled function."""
    optimizer = optax.with_extra_args_support(optimizer)
    sums = sums_of(metrics)

    def step(train_state: TrainState, inputs: Any, targets: Any) -> tuple[TrainState, Measured]:
        if average is not None and train_state.average is None:
            raise ValueError("train_state must have an average, as TrainState.create(average=...) gives it, got None")
        augment_key, net_key = jax.random.split(jax.random.fold_in(train_state.key, train_state.step))
        x, y = prepared(augment_key, inputs, targets, augment=augment, preprocess=preprocess)
        scale = loss_scale_of(train_state.opt_state)

        def objective(params: Any) -> tuple[jax.Array, tuple[jax.Array, Measured, Any]]:
            params = params if placement is None else placement.gathered(params)
            outputs, state = net.apply(params, train_state.state, x, train=True, key=net_key)
            values, named = measure(loss, metrics, outputs, y)
            value = mean(values)
            return value if scale is None else value * scale, (value, named, state)

        (_, (value, named, state)), grads = jax.value_and_grad(objective, has_aux=True)(train_state.params)
        if scale is not None:
            grads = jax.tree.map(lambda leaf: (_wide(leaf) / scale).astype(leaf.dtype), grads)
        updates, opt_state = optimizer.update(grads, train_state.opt_state, train_state.params, value=value)
        params = optax.apply_updates(train_state.params, updates)
        norm = optax.tree.norm(jax.tree.map(_wide, grads))
        still = _all_zero(updates, least=average is None)
        skipped = ~jnp.isfinite(norm) & still
        state = jax.tree.map(lambda new, old: jnp.where(skipped, old, new), state, train_state.state)
        moving = train_state.average
        if average is not None:
            decay = jnp.where(still, 1.0, jnp.minimum(average, (1 + train_state.step) / (10 + train_state.step)))
            moving = jax.tree.map(functools.partial(_averaged, decay), moving, params)
        new = TrainState(params, state, opt_state, train_state.step + 1, train_state.key, moving)
        return strong(new), {"loss": value, **means(named, sums), "grad_norm": norm}

    return step if placement is None else placement.on(step)


def prepared(
    key: jax.Array, inputs: Any, targets: Any, *, augment: Augment | None, preprocess: Preprocess | None
) -> tuple[Any, Any]:
    """A batch as the network and the loss get it in training."""
    x = inputs if preprocess is None else preprocess(inputs)
    if augment is None:
        return x, targets
    if not takes_targets(augment):
        return augment(key, x), targets
    pair = augment(key, x, targets)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"augment must return (inputs, targets) where it takes both, got {type(pair).__name__}")
    return pair


def steps_per_epoch(count: int, batch_size: int) -> int:
    """How many steps `fit` takes to see ``count`` examples once, the last, filled up batch included.

    Example:
      >>> steps_per_epoch(4000, 128)
      32
    """
    return -(-count // batch_size)


def _averaged(decay: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
    if not jnp.issubdtype(old.dtype, jnp.floating):
        return new
    return old + (1 - decay).astype(old.dtype) * (new.astype(old.dtype) - old)


def _wide(values: jax.Array) -> jax.Array:
    """The values in float32 at least: squares of float16 overflow from 256 on."""
    return values.astype(wider(values.dtype, jnp.float32))


def _all_zero(updates: Any, *, least: bool) -> jax.Array:
    """Whether nothing is updated; with ``least``, by the three smallest arrays: an optimizer skips all or none.

    These cost least, but they may belong to frozen layers, which no step updates.
    """
    arrays = sorted((leaf for leaf in jax.tree.leaves(updates) if leaf.size), key=lambda leaf: leaf.size)
    moved = [jnp.any(leaf != 0) for leaf in (arrays[:3] if least else arrays)]
    return ~functools.reduce(jnp.logical_or, moved, jnp.zeros((), bool))
