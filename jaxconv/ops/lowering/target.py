"""What a program is compiled for: a platform with its properties, and the libraries that the program may call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from jaxconv.ops.lowering.forms import Row


class Blocks(NamedTuple):
    """The blocks of memory in which a compiler allocates the temporary arrays of a program.

    Args:
      option: the compiler option that limits the bytes of a block.
      least, most: the smallest and the largest limit that is set.
      kept: the bytes of a block above which the system clears it at each call.
    """

    option: str
    least: int
    most: int
    kept: int


@dataclass(frozen=True, eq=False)
class Platform:
    """A platform, what was measured on it, and how its compiler and libraries behave.

    Args:
      name: as JAX names it in `jax.jit(...).lower`, or None for any platform.
      rows: the measured choices, the first of which that fits a problem is taken.
      aliases: other names, such as the one of `jax.default_backend`.
      onednn: whether XLA has calls of oneDNN.
      guards: whether a form that lets non-finite elements spread runs with a check of its result: on an accelerator
        the branch would wait for the device.
      recomputes: whether the compiler fuses an operation into each of its readers and computes it again there.
      half: whether libraries accept half precision and accumulate it in float32 themselves.
      features_first: whether convolutions read kernels whose first axis has the features.
      crops: whether XLA's convolution needs its input cropped to the elements that windows reach.
      loops: whether a layer in a compiled loop is as fast as outside of it.
      one_tap_at_a_time: whether the compiler, unless stopped, stores the inputs of all taps at once.
      options: the compiler options that `jaxconv.jit` adds to those of the caller.
      blocks: the blocks of temporary memory, where `jaxconv.jit` limits their size.
      ynnpack: whether the compiler passes convolutions to YNNPACK, as a function of its options.
    """

    name: str | None
    rows: "tuple[Row, ...]" = ()
    aliases: tuple[str, ...] = ()
    onednn: bool = False
    guards: bool = False
    recomputes: bool = False
    half: bool = False
    features_first: bool = False
    crops: bool = True
    loops: bool = True
    one_tap_at_a_time: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    blocks: Blocks | None = None
    ynnpack: Callable[[Mapping[str, Any]], bool] = lambda options: True


ANY = Platform(None)


@dataclass(frozen=True)
class Target:
    """A platform and the libraries that a program may use there.

    Args:
      platform: the platform.
      onednn: whether the program may call oneDNN: see `jaxconv.ops.lowering.onednn`.
      ynnpack: whether XLA:CPU may pass convolutions to YNNPACK, as it does by default.
      left_out: why oneDNN is not called on a platform that has it, or "".
    """

    platform: Platform = ANY
    onednn: bool = False
    ynnpack: bool = True
    left_out: str = ""


class Solve(Protocol):
    """Computes a smaller problem by the form that is chosen for it: see `jaxconv.ops.lowering.table.Solver`."""

    @property
    def target(self) -> Target: ...

    def __call__(self, p: Any, *arrays: Any) -> Any: ...

    def without_onednn(self) -> "Solve": ...
