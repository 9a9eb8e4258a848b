"""Output sizes, and padding in all its forms. Integers in, integers out.

A size may be symbolic, as in `jax.export`: then a check that cannot be decided passes.
"""

import operator
from collections.abc import Sequence
from typing import overload

import jax
import jax.export

from jaxconv.errors import ArgumentError, ShapeError

IntOrTuple = int | Sequence[int]
Pairs = tuple[tuple[int, int], ...]
Padding = str | int | Sequence[int | tuple[int, int]]

PADDING_NAMES = ("VALID", "SAME", "SAME_LOWER")


def surely_less(a: int, b: int) -> bool:
    """Returns whether a is less than b; False where they are symbolic and that cannot be decided.

    >>> surely_less(2, 3)
    True
    """
    try:
        return bool(a < b)
    except jax.errors.InconclusiveDimensionOperation:
        return False


def as_int(value: object, name: str, *, least: int | None = None) -> int:
    """Returns ``value`` as an int, or raises ArgumentError."""
    if jax.export.is_symbolic_dim(value):  # type: ignore[arg-type]
        return value  # type: ignore[return-value]
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentError(f"{name} must be an integer, got {value!r}") from None
    if isinstance(value, bool):
        raise ArgumentError(f"{name} must be an integer, got {value!r}")
    if least is not None and number < least:
        raise ArgumentError(f"{name} must be at least {least}, got {number}")
    return number


def as_tuple(value: IntOrTuple, rank: int, name: str, *, least: int | None = 1) -> tuple[int, ...]:
    """Returns one integer for each of ``rank`` axes; a single int serves them all.

    >>> as_tuple(2, 3, "stride")
    (2, 2, 2)
    """
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (as_int(value, name, least=least),) * rank
    if len(value) != rank:
        raise ArgumentError(f"{name} must be an int or one int for each of the {rank} spatial axes, got {tuple(value)}")
    return tuple(as_int(v, name, least=least) for v in value)


def window_extent(window: int, dilation: int = 1) -> int:
    """Returns the number of input elements from a window's first tap to its last, both counted."""
    return (window - 1) * dilation + 1


def resolve_padding(
    padding: Padding,
    size: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Pairs:
    """Turns any form of ``padding`` into a (low, high) pair for each axis.

    Args:
      padding: "VALID" (none), "SAME" (output is ceil(size / stride), the odd element goes high, as XLA does),
        "SAME_LOWER" (the odd element goes low), an int for every side, or a sequence with an int or a (low, high) pair
        for each axis. A negative integer crops.
      size, window, stride, dilation: one integer for each axis.

    Raises:
      ArgumentError: ``padding`` has none of these forms.

    >>> resolve_padding("SAME", (7, 8), (3, 3), (2, 2), (1, 1))
    ((1, 1), (0, 1))
    """
    rank = len(size)
    if isinstance(padding, str):
        name = padding.upper()
        if name not in PADDING_NAMES:
            raise ArgumentError(
                f"padding must be one of {', '.join(PADDING_NAMES)}, an int or a sequence, got {padding!r}"
            )
        if name == "VALID":
            return ((0, 0),) * rank
        pairs = []
        for n, f, s, d in zip(size, window, stride, dilation, strict=True):
            total = jax.core.max_dim((-(-n // s) - 1) * s + window_extent(f, d) - n, 0)
            low = (total + 1) // 2 if name == "SAME_LOWER" else total // 2
            pairs.append((low, total - low))
        return tuple(pairs)
    return explicit_padding(padding, rank)


def explicit_padding(padding: int | Sequence[int | tuple[int, int]], rank: int) -> Pairs:
    """Returns a (low, high) pair for each axis from an int, or from an int or a pair for each axis."""
    if not isinstance(padding, Sequence):
        return ((as_int(padding, "padding"),) * 2,) * rank
    if len(padding) != rank:
        raise ArgumentError(
            f"padding must have an int or a (low, high) pair for each of the {rank} spatial axes, got {padding!r}"
        )
    pairs = []
    for entry in padding:
        pair = tuple(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else (entry, entry)
        if len(pair) != 2:
            raise ArgumentError(f"padding must have an int or a (low, high) pair for each axis, got {entry!r}")
        pairs.append((as_int(pair[0], "padding"), as_int(pair[1], "padding")))
    return tuple(pairs)


def output_sizes(
    size: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    *,
    ceil_mode: bool = False,
) -> tuple[int, ...]:
    """Returns the number of windows along each axis, or raises ShapeError where none does."""
    sizes = []
    for axis, (n, f, s, (low, high), d) in enumerate(zip(size, window, stride, padding, dilation, strict=True)):
        if surely_less(n, 1):
            raise ShapeError(f"spatial sizes must be at least 1, got {tuple(size)}")
        inside = n + jax.core.min_dim(low, 0) + jax.core.min_dim(high, 0)
        if surely_less(inside, 1):
            raise ShapeError(f"padding must leave an element of spatial axis {axis}, of size {n}, got ({low}, {high})")
        extent = window_extent(f, d)
        padded = n + low + high
        if surely_less(padded, extent):
            dilated = f" (extent {extent} at dilation {d})" if d > 1 else ""
            raise ShapeError(
                f"window must be at most the padded input, {n} + {low} + {high} = {padded}, got {f}{dilated} "
                f"on spatial axis {axis}"
            )
        steps = padded - extent
        out = steps // s + 1
        # A window that hangs over the high side counts if it starts inside the input or the low padding (torch's rule).
        # A negative high side cuts the input short.
        if ceil_mode:
            starts = -(-(n + low + jax.core.min_dim(high, 0)) // s)
            out = jax.core.max_dim(out, jax.core.min_dim(-(-steps // s) + 1, starts))
        sizes.append(out)
    return tuple(sizes)


def _rank(*values: object) -> int | None:
    """Returns the common length of the arguments that are sequences; None if all are single integers."""
    lengths = {len(v) for v in values if isinstance(v, Sequence) and not isinstance(v, str)}
    if len(lengths) > 1:
        raise ArgumentError(f"size, window, stride and dilation must have one number of axes, got {sorted(lengths)}")
    return lengths.pop() if lengths else None


@overload
def conv_output_size(  # type: ignore[overload-overlap]
    size: int,
    window: int,
    *,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    exact: bool = False,
) -> int: ...
@overload
def conv_output_size(
    size: IntOrTuple,
    window: IntOrTuple,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    exact: bool = False,
) -> tuple[int, ...]: ...
def conv_output_size(size, window, *, stride=1, padding=0, dilation=1, ceil_mode=False, exact=False):
    """Returns the size of a convolution's or a pool's output: ``(N + 2P - F) / S + 1``.

    Args:
      size: N, an int or one for each spatial axis.
      window: F, likewise.
      stride: S, likewise.
      padding: every form that `conv` accepts; the default is the lecture's 0.
      dilation: distance between the taps of the window, likewise.
      ceil_mode: count a last window that hangs over the high side, as ``torch.nn.MaxPool2d(ceil_mode=True)``.
      exact: raise where the windows do not tile the padded input.

    Returns:
      An int if all arguments are single integers, otherwise a tuple.

    Raises:
      ArgumentError: an argument is not an integer, is out of range, or has another number of axes.
      ShapeError: the window is larger than the padded input; or, with ``exact``, windows do not tile the padded input.

    >>> conv_output_size(7, 3), conv_output_size(7, 3, stride=2), conv_output_size(7, 3, padding=1)
    (5, 3, 7)
    >>> conv_output_size((224, 224), 2, stride=2)
    (112, 112)
    >>> conv_output_size(7, 3, stride=3, exact=True)
    Traceback (most recent call last):
    jaxconv.errors.ShapeError: window must tile 7 + 0 + 0 = 7 at stride 3, got 3 on spatial axis 0: (7 - 3) / 3 + 1 is
    not a whole number, 1 element is left over
    """
    rank = _rank(size, window, stride, dilation)
    axes = 1 if rank is None else rank
    sizes = as_tuple(size, axes, "size", least=None)
    windows = as_tuple(window, axes, "window")
    strides = as_tuple(stride, axes, "stride")
    dilations = as_tuple(dilation, axes, "dilation")
    pairs = resolve_padding(padding, sizes, windows, strides, dilations)
    out = output_sizes(sizes, windows, strides, pairs, dilations, ceil_mode=ceil_mode)
    if exact:
        for axis, (n, f, s, (low, high), d) in enumerate(zip(sizes, windows, strides, pairs, dilations, strict=True)):
            padded, extent = n + low + high, window_extent(f, d)
            left = (padded - extent) % s
            if left:
                plural = "element is" if left == 1 else "elements are"
                raise ShapeError(
                    f"window must tile {n} + {low} + {high} = {padded} at stride {s}, got {f} on spatial axis {axis}: "
                    f"({padded} - {extent}) / {s} + 1 is not a whole number, {left} {plural} left over"
                )
    return out[0] if rank is None else out


def transpose_padding(
    padding: Padding,
    window: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    output_padding: IntOrTuple = 0,
) -> tuple[Pairs, tuple[int, ...]]:
    """Returns the padding of the convolution whose adjoint this is, and the elements added at the high side.

    "SAME" is the adjoint of ``conv(padding="SAME")`` on size ``N * stride``, also where the window is smaller than the
    stride; then no window covers the last elements, and they are the elements added.
    """
    rank = len(window)
    extra = as_tuple(output_padding, rank, "output_padding", least=0)
    if not isinstance(padding, str):
        for axis, (e, s, d) in enumerate(zip(extra, stride, dilation, strict=True)):
            if e >= max(s, d):
                raise ArgumentError(
                    f"output_padding must be smaller than stride or dilation, got {e} with stride {s} and dilation {d} "
                    f"on spatial axis {axis}"
                )
        return explicit_padding(padding, rank), extra
    if any(extra):
        raise ArgumentError(f"padding must be integers where output_padding is given, got {padding!r}")
    sizes = [s * max(window_extent(f, d), 1) for f, s, d in zip(window, stride, dilation, strict=True)]
    pairs = resolve_padding(padding, sizes, window, stride, dilation)
    if padding.upper() == "VALID":
        return pairs, (0,) * rank
    return pairs, tuple(max(s - window_extent(f, d), 0) for f, s, d in zip(window, stride, dilation, strict=True))


def transpose_output_sizes(
    size: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Pairs,
    extra: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Returns ``(N - 1) S - low - high + extent + extra`` along each axis, or raises ShapeError if that is nothing."""
    sizes = []
    for axis, (n, f, s, (low, high), e, d) in enumerate(
        zip(size, window, stride, padding, extra, dilation, strict=True)
    ):
        if surely_less(n, 1):
            raise ShapeError(f"spatial sizes must be at least 1, got {tuple(size)}")
        out = (n - 1) * s - low - high + window_extent(f, d) + e
        if surely_less(out, 1):
            raise ShapeError(
                f"padding must leave an element of the output, got ({low}, {high}) on spatial axis {axis}: size {n}, "
                f"window {f}, stride {s} and dilation {d} give {out}"
            )
        sizes.append(out)
    return tuple(sizes)


@overload
def conv_transpose_output_size(  # type: ignore[overload-overlap]
    size: int, window: int, *, stride: int = 1, padding: Padding = 0, output_padding: int = 0, dilation: int = 1
) -> int: ...
@overload
def conv_transpose_output_size(
    size: IntOrTuple,
    window: IntOrTuple,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = 0,
    output_padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
) -> tuple[int, ...]: ...
def conv_transpose_output_size(size, window, *, stride=1, padding=0, output_padding=0, dilation=1):
    """Returns the size of a transposed convolution's output: ``(N - 1) S - 2P + F + output_padding``.

    Args:
      size: N, an int or one for each spatial axis; window, stride, dilation and output_padding likewise.
      padding: every form that `conv_transpose` accepts. "SAME" gives ``N * S``.

    Returns:
      An int if all arguments are single integers, otherwise a tuple: torch's ``ConvTranspose2d`` sizes.

    Raises:
      ArgumentError: an argument is not an integer, is out of range, or has another number of axes.
      ShapeError: the output would be empty.

    >>> conv_transpose_output_size(28, 4, stride=2, padding=1)
    56
    >>> conv_transpose_output_size(28, 3, stride=2, padding="SAME")
    56
    """
    rank = _rank(size, window, stride, dilation, output_padding)
    axes = 1 if rank is None else rank
    windows = as_tuple(window, axes, "window")
    strides = as_tuple(stride, axes, "stride")
    dilations = as_tuple(dilation, axes, "dilation")
    pairs, extra = transpose_padding(padding, windows, strides, dilations, output_padding)
    sizes = as_tuple(size, axes, "size", least=None)
    out = transpose_output_sizes(sizes, windows, strides, pairs, extra, dilations)
    return out[0] if rank is None else out


def adaptive_bins(size: int, bins: int) -> tuple[tuple[int, int], ...]:
    """Returns the (start, stop) of each adaptive bin: ``floor(i N / M)`` to ``ceil((i + 1) N / M)``, as torch.

    >>> adaptive_bins(7, 3)
    ((0, 3), (2, 5), (4, 7))
    """
    return tuple((i * size // bins, -(-(i + 1) * size // bins)) for i in range(bins))
