"""Training over the devices of a mesh: which array is divided over which of its axes, and how arrays get there.

The axis "data" divides the batch. Parameters are on every device, or divided over an axis of the mesh as well
(``shard_params``): then a device keeps its part of each large parameter and of the optimizer's state for it, all parts
are gathered for the forward pass, and the gradient is summed into parts (ZeRO, FSDP). What is computed does not depend
on the mesh but for the order of sums: batch statistics, losses and metrics are those of the whole batch.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.extend
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxconv.structs import struct_of
from jaxconv.train import leaves

ShardParams: TypeAlias = str | Callable[[str, tuple[int, ...]], PartitionSpec] | None
# A `jaxconv.train.TrainState`, and a step of it.
Tree: TypeAlias = Any
Step: TypeAlias = Callable[..., tuple[Tree, Any]]
T = TypeVar("T")

DATA = "data"
SHORT = '; leave out a last batch that is smaller, as remainder="drop" of jaxconv.data.batches does'

# A vector, such as a bias or a scale, is not worth the message that gathers it: of ResNet-50 they are 0.3 %.
_LEAST_RANK = 2

# Initial weights are drawn in about this number of programs.
_GROUPS = 32


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a run's arrays are: what `train_step` and `fit` make of ``mesh`` and ``shard_params``.

    Args:
      mesh: a mesh with an axis "data", Auto or Explicit.
      shard_params: None, for parameters on every device; the name of an axis, which divides the last of the largest
        axes that it can of each parameter with two axes or more; or ``shard_params(path, shape) -> PartitionSpec``.

    Raises:
      ValueError: where the mesh has no axis "data", or ``shard_params`` names none of its axes.
    """

    mesh: Mesh
    shard_params: ShardParams = None

    def __post_init__(self) -> None:
        if not isinstance(self.mesh, Mesh):
            raise ValueError(f"mesh must be a jax.sharding.Mesh, got {type(self.mesh).__name__}")
        axes = self.mesh.axis_names
        if DATA not in axes:
            raise ValueError(f"mesh must have an axis {DATA!r} for the batch, got axes {axes}")
        if manual := [axis for axis, kind in zip(axes, self.mesh.axis_types, strict=True) if kind == AxisType.Manual]:
            raise ValueError(f"mesh must have Auto or Explicit axes, got Manual {manual}")
        if not (self.shard_params is None or callable(self.shard_params) or self.shard_params in axes):
            raise ValueError(
                f"shard_params must be None, one of the mesh's axes {axes} or a function of a path and a shape, "
                f"got {self.shard_params!r}"
            )

    @property
    def auto(self) -> "Placement":
        """The same with Auto axes."""
        mesh = self.mesh
        kinds = (AxisType.Auto,) * len(mesh.axis_names)
        return dataclasses.replace(self, mesh=Mesh(mesh.devices, mesh.axis_names, axis_types=kinds))

    @property
    def parts(self) -> int:
        """How many parts the batch has."""
        return int(self.mesh.shape[DATA])

    def check_batch_size(self, size: int, name: str = "batch_size", hint: str = "") -> None:
        """Raises ValueError where the mesh does not divide a batch of this size."""
        if size % self.parts:
            raise ValueError(
                f"{name} must be a multiple of {self.parts}, the size of the mesh's axis {DATA!r}, got {size}{hint}"
            )

    def shard(self) -> tuple[int, int]:
        """(index, count): of the parts into which the processes divide each batch, the one of this process.

        Processes whose devices have the same positions on the axis "data" read the same part.
        """
        axis = self.mesh.axis_names.index(DATA)
        at: dict[int, set[int]] = {}
        for position, device in np.ndenumerate(self.mesh.devices):
            at.setdefault(device.process_index, set()).add(position[axis])
        groups = sorted({tuple(sorted(positions)) for positions in at.values()})
        if [position for group in groups for position in group] != list(range(self.parts)):
            raise ValueError(
                f"mesh must have the devices of a process next to each other on the axis {DATA!r}, got positions "
                f"{dict(sorted((process, sorted(positions)) for process, positions in at.items()))}"
            )
        return groups.index(tuple(sorted(at[jax.process_index()]))), len(groups)

    def whole_batch(self, shapes: T) -> T:
        """The shapes of a batch from those of one process's part."""
        count = self.shard()[1]

        def whole(leaf: Any) -> Any:
            self.check_batch_size(leaf.shape[0] * count, "the size of a batch", SHORT)
            return struct_of((leaf.shape[0] * count, *leaf.shape[1:]), leaf.dtype)

        return jax.tree.map(whole, shapes)

    def counts(self, rows: int) -> list[int]:
        """How many examples each process's part of a batch has, in the order of the parts. All processes call it."""
        index, count = self.shard()
        if jax.process_count() == 1 or count == 1:
            return [rows]
        from jax.experimental import multihost_utils

        everyones = np.asarray(multihost_utils.process_allgather(np.array([index, rows])))
        found = dict(everyones.tolist())
        return [found[part] for part in range(count)]

    def specs(self, train_state: Tree) -> Tree:
        """For each array of a train state the axes of the mesh that divide it.

        An array of the optimizer, or an average, whose path ends with that of a parameter of its shape is divided as
        that parameter is. All other arrays, layer state included, are on every device.
        """
        flat = list(leaves.flatten(train_state))
        params = leaves.flatten(train_state.params)
        divided = {name: self._spec(name, leaf.shape) for name, leaf in params.items()}
        specs = []
        for name, leaf in zip(flat, jax.tree.leaves(train_state), strict=True):
            parts = name.split("/")
            # From the longest: a parameter "kernel" of the network itself is none of "0/kernel".
            suffixes = ["/".join(parts[i:]) for i in range(1, len(parts))] if parts[0] != "state" else []
            found = next((end for end in suffixes if end in params and params[end].shape == leaf.shape), None)
            specs.append(divided[found] if found else PartitionSpec())
        return jax.tree.unflatten(jax.tree.structure(train_state), specs)

    def created(self, draw: Callable[..., Any], make: Callable[..., Tree], key: jax.Array, init: Any) -> Tree:
        """The train state ``make(key, init)`` on the mesh. Every process gives the whole key and initial weights.

        Where parameters are divided, each device makes its part of them, a few arrays at a time, so that none needs
        room for all; initial weights go to the devices one array at a time.

        Args:
          draw: ``draw(key)``, the initial weights where ``init`` is None.
          make: the train state of a key and (params, state).
        """
        if self.shard_params is None:
            return self.put(make(key, draw(key) if init is None else init))
        auto, drawn = self.auto, init is None
        with jax.set_mesh(auto.mesh):
            key = auto.put_whole(key)
            shapes = jax.eval_shape(make, key, jax.eval_shape(draw, key) if drawn else init)
            places = auto._shardings(shapes)
            weights = places.params, places.state
            if drawn:
                each, form = jax.tree.flatten(weights)
                programs = _draws(draw, jax.ShapeDtypeStruct(key.shape, key.dtype), tuple(each))
                made = [leaf for program in programs for leaf in jax.block_until_ready(program(key))]
                init = jax.tree.unflatten(form, made)
            else:
                init = jax.tree.map(_put_whole, tuple(init), weights)
            state = jax.jit(make, out_shardings=places, donate_argnums=1 if drawn else ())(key, init)
        return state if auto.mesh == self.mesh else self.moved(state)

    def put(self, train_state: Tree) -> Tree:
        """The train state on the mesh, unless it is there. Every process gives all of it."""
        if getattr(train_state.step.sharding, "mesh", None) == self.mesh:
            return train_state
        return jax.tree.map(_put_whole, train_state, self._shardings(train_state))

    def put_params(self, tree: T) -> T:
        """Parameters on the mesh: divided as they are where they are on its devices, else on every device."""
        devices = self.mesh.devices.tolist()

        def put(leaf: Any) -> Any:
            found = getattr(leaf, "sharding", None)
            if not isinstance(found, NamedSharding) or found.mesh.axis_names != self.mesh.axis_names:
                return _put_whole(leaf, self._sharding(PartitionSpec(), leaf))
            same = found.mesh.devices.tolist() == devices
            return jax.device_put(leaf, self._sharding(found.spec if same else PartitionSpec(), leaf))

        return jax.tree.map(put, tree)

    def put_whole(self, tree: T) -> T:
        """Arrays on every device. Every process gives all of them."""
        return jax.tree.map(lambda leaf: _put_whole(leaf, self._sharding(PartitionSpec(), leaf)), tree)

    def put_divided(self, tree: T) -> T:
        """Arrays with their first axis divided as a batch's. Every process gives all of them."""
        return jax.tree.map(lambda leaf: _put_whole(leaf, self._sharding(PartitionSpec(DATA), leaf)), tree)

    def put_batch(self, tree: T) -> T:
        """A batch with its first axis divided. Of several processes each gives its part (`shard`)."""
        count = self.shard()[1] if jax.process_count() > 1 else 1

        def put(leaf: Any) -> Any:
            sharding = self._sharding(PartitionSpec(DATA), leaf)
            whole = count == 1 or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable)
            self.check_batch_size(np.shape(leaf)[0] * (1 if whole else count), "the size of a batch", SHORT)
            if whole:
                return jax.device_put(leaf, sharding)
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))

        return jax.tree.map(put, tree)

    def moved(self, tree: T) -> T:
        """Arrays of a run on `auto`, with the types of this mesh's axes."""
        return jax.tree.map(lambda leaf: jax.device_put(leaf, self._sharding(leaf.sharding.spec, leaf)), tree)

    def gathered(self, params: T) -> T:
        """Parameters as the forward pass takes them: divided over "data" no more. Their gradient is divided again."""
        if self.shard_params is None:
            return params
        specs = jax.tree.unflatten(
            jax.tree.structure(params),
            [self._spec(name, leaf.shape) for name, leaf in leaves.flatten(params).items()],
        )

        @jax.custom_vjp
        def gather(params: T) -> T:
            return _constrain(params, jax.tree.map(_without_data, specs))

        gather.defvjp(lambda params: (gather(params), None), lambda _, grads: (_constrain(grads, specs),))
        return gather(params)

    def on(self, step: Step) -> Step:
        """A step, before jit, that is divided over the mesh.

        Explicit axes are Auto inside it, so that networks, losses and optimizers need not name the shardings of what
        they compute; what it returns has Explicit types again.
        """

        def divided(train_state: Tree, *batch: Any) -> tuple[Tree, Any]:
            specs = self.specs(train_state)

            def run(train_state: Tree, *batch: Any) -> tuple[Tree, Any]:
                split = [_constrain(leaf, PartitionSpec(DATA)) for leaf in batch]
                train_state, metrics = step(_constrain(train_state, specs), *split)
                return _constrain(train_state, specs), _constrain(metrics, PartitionSpec())

            for leaf in jax.tree.leaves(batch):
                self.check_batch_size(leaf.shape[0], "the size of a batch", SHORT)
            with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
                if AxisType.Explicit in self.mesh.axis_types:
                    run = jax.sharding.auto_axes(run, out_sharding=(specs, PartitionSpec()))
                return run(train_state, *batch)

        return divided

    def _shardings(self, train_state: Tree) -> Tree:
        """The sharding of each array of a train state."""
        return jax.tree.map(lambda leaf, spec: self._sharding(spec, leaf), train_state, self.specs(train_state))

    def _sharding(self, spec: PartitionSpec, leaf: Any) -> NamedSharding:
        """A sharding as a step returns it: of P() and P(None) JAX makes two types, and would compile twice."""
        explicit = AxisType.Explicit in self.mesh.axis_types
        entries = [*spec, *[None] * (np.ndim(leaf) - len(spec))] if explicit else list(spec)
        while not explicit and entries and entries[-1] is None:
            entries.pop()
        return NamedSharding(self.mesh, PartitionSpec(*entries))

    def _spec(self, path: str, shape: tuple[int, ...]) -> PartitionSpec:
        """The axes of the mesh that divide a parameter."""
        if self.shard_params is None:
            return PartitionSpec()
        if isinstance(self.shard_params, str):
            parts = self.mesh.shape[self.shard_params]
            axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
            if len(shape) < _LEAST_RANK or not axes:
                return PartitionSpec()
            axis = max(axes, key=lambda axis: (shape[axis], axis))
            return PartitionSpec(*[None] * axis, self.shard_params)
        spec = self.shard_params(path, shape)
        self._check_spec(path, shape, spec)
        return spec

    def _check_spec(self, path: str, shape: tuple[int, ...], spec: Any) -> None:
        """What a custom ``shard_params`` returned fits the parameter and the mesh."""
        expected = f"shard_params must return for {path} {shape} a PartitionSpec over axes of {dict(self.mesh.shape)}"
        if not isinstance(spec, PartitionSpec) or len(spec) > len(shape):
            raise ValueError(f"{expected}, at most one entry for each axis of the parameter, got {spec!r}")
        for size, entry in zip(shape, spec, strict=False):
            names = _names(entry)
            if not set(names) <= set(self.mesh.axis_names):
                raise ValueError(f"{expected}, got {spec}")
            if size % math.prod(self.mesh.shape[name] for name in names):
                raise ValueError(f"{expected} that divide it, got {spec}")


class PlacedStep:
    """A jitted step that puts what it is called with on the mesh.

    Args:
      compiled: the jitted step.
      placement: where its arrays go.
    """

    def __init__(self, compiled: Any, placement: Placement):
        self._compiled, self._placement = compiled, placement

    def __call__(self, train_state: Tree, *batch: Any) -> tuple[Tree, Any]:
        return self._compiled(self._placement.put(train_state), *self._placement.put_batch(batch))  # type: ignore[no-any-return]

    def lower(self, train_state: Tree, *batch: Any) -> Any:
        """As that of a jitted function: ``lower(...).compile().as_text()`` shows what devices send."""
        return self._compiled.lower(self._placement.put(train_state), *self._placement.put_batch(batch))


def data_shard(mesh: Mesh) -> tuple[int, int]:
    """(index, count): of the parts into which the processes of a run divide each batch, the one of this process.

    For the ``shard`` of `jaxconv.data.batches`, or to make an iterable of this process's part of each batch.

    Args:
      mesh: as `fit` takes it.

    Raises:
      ValueError: where the devices of a process are not next to each other on the axis "data".

    Example:
      >>> data_shard(jax.make_mesh((1,), ("data",)))
      (0, 1)
    """
    return Placement(mesh).shard()


def placement_of(mesh: Mesh | None, shard_params: ShardParams) -> Placement | None:
    """The placement on a mesh; None without one."""
    if mesh is not None:
        return Placement(mesh, shard_params)
    if shard_params is not None:
        raise ValueError(f"shard_params must come with a mesh, got mesh=None and {shard_params!r}")
    return None


@functools.lru_cache(maxsize=16)
def _draws(draw: Callable[..., Any], key: Any, places: tuple[NamedSharding, ...]) -> list[Callable[..., list[Any]]]:
    """Programs that return the arrays of ``draw(key)``, each some of them, in their order.

    XLA for CPU draws a kernel whole before it takes a device's part, and in one program all of them at the same time.
    """
    closed = jax.make_jaxpr(draw)(key)
    function = jax.extend.core.jaxpr_as_fun(closed)
    sizes = [math.prod(out.aval.shape) for out in closed.jaxpr.outvars]
    groups: list[list[int]] = []
    most, room = max([sum(sizes) // _GROUPS, *sizes]), -1
    for i, size in enumerate(sizes):
        if size > room:
            groups.append([])
            room = most
        groups[-1].append(i)
        room -= size
    return [
        jax.jit(lambda key, group=group: [function(key)[i] for i in group], out_shardings=[places[i] for i in group])
        for group in groups
    ]


def _constrain(tree: T, specs: Any) -> T:
    """Shardings for the compiler, on the mesh of the context. ``specs`` is one for all, or a tree of them."""
    if isinstance(specs, PartitionSpec):
        specs = jax.tree.map(lambda _: specs, tree)
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, specs)


def _put_whole(leaf: Any, sharding: NamedSharding) -> Any:
    """An array of which every process has all, on several devices."""
    if jax.process_count() == 1 or not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array) and leaves.is_key(leaf):
        data = _put_whole(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _names(entry: Any) -> tuple[str, ...]:
    """The mesh axes of one entry of a PartitionSpec."""
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def _without_data(spec: PartitionSpec) -> PartitionSpec:
    """The spec of what is gathered over "data"."""
    kept = [tuple(name for name in _names(entry) if name != DATA) for entry in spec]
    return PartitionSpec(*[(names if len(names) > 1 else names[0]) if names else None for names in kept])
