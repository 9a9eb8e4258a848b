"""The ops as loops over windows in NumPy float64: slow, and plain enough to be read in one sitting.

Arrays are channels last with one batch axis, ``(N, *spatial, C)``. Every op visits its output places with `places`, and
at each place its taps with `taps`.
"""

import itertools
import math

import numpy as np

PAD_MODES = {"zeros": "constant", "reflect": "reflect", "edge": "edge", "circular": "wrap"}


def per_axis(value, rank):
    """One integer for each axis."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def pairs(padding, size, window, stride, dilation):
    """A (low, high) pair for each axis, from any form of padding."""
    if padding == "VALID":
        return [(0, 0)] * len(size)
    if isinstance(padding, str):
        result = []
        for n, f, s, d in zip(size, window, stride, dilation, strict=True):
            out = math.ceil(n / s)
            total = max((out - 1) * s + (f - 1) * d + 1 - n, 0)
            small, large = total // 2, total - total // 2
            result.append({"SAME": (small, large), "SAME_LOWER": (large, small)}[padding])
        return result
    padding = per_axis(padding, len(size))
    return [(p, p) if isinstance(p, int) else tuple(p) for p in padding]


def padded(x, pads, mode="zeros", value=0.0):
    """x with its spatial axes padded; negative amounts crop."""
    grow = [(0, 0), *((max(low, 0), max(high, 0)) for low, high in pads), (0, 0)]
    x = np.pad(x, grow, mode=PAD_MODES[mode], **({"constant_values": value} if mode == "zeros" else {}))
    crop = [slice(max(-low, 0), n - max(-high, 0)) for (low, high), n in zip(pads, x.shape[1:-1], strict=True)]
    return x[(slice(None), *crop)]


def places(shape):
    """Every index into an array of this shape, row-major."""
    return itertools.product(*(range(n) for n in shape))


def taps(place, window, stride, dilation):
    """The taps of the window at this place: (index in the window, position in the padded input)."""
    for tap in places(window):
        yield tap, tuple(p * s + t * d for p, s, t, d in zip(place, stride, tap, dilation, strict=True))


def windows_that_fit(size, window, stride, pads, dilation, ceil_mode=False):
    """How many windows fit along each axis; with ceil_mode also one that starts inside input or low padding."""
    result = []
    for n, f, s, (low, high), d in zip(size, window, stride, pads, dilation, strict=True):
        starts = range(0, n + low + high, s)
        whole = [start for start in starts if start + (f - 1) * d < n + low + high]
        if ceil_mode and whole[-1] + (f - 1) * d + 1 < n + low + high and whole[-1] + s < n + low + min(high, 0):
            whole.append(whole[-1] + s)
        result.append(len(whole))
    return tuple(result)


def conv(x, kernel, bias=None, *, stride=1, padding="SAME", dilation=1, groups=1, pad_mode="zeros"):
    """kernel: ``(*window, in // groups, out)``."""
    *window, inner, out = kernel.shape
    rank = len(window)
    stride, dilation = per_axis(stride, rank), per_axis(dilation, rank)
    pads = pairs(padding, x.shape[1:-1], window, stride, dilation)
    size = windows_that_fit(x.shape[1:-1], window, stride, pads, dilation)
    x = padded(x, pads, pad_mode)
    y = np.zeros((len(x), *size, out))
    for place in places(size):
        for tap, position in taps(place, window, stride, dilation):
            pixel = x[(slice(None), *position)]
            for g in range(groups):
                ins, outs = slice(g * inner, (g + 1) * inner), slice(g * out // groups, (g + 1) * out // groups)
                y[(slice(None), *place, outs)] += pixel[:, ins] @ kernel[tap][:, outs]
    return y if bias is None else y + bias


def conv_transpose(y, kernel, bias=None, *, stride=1, padding="SAME", output_padding=0, dilation=1, groups=1):
    """Each pixel is scattered over its window's places in the output. kernel: ``(*window, out // groups, in)``."""
    *window, outer, inner = kernel.shape
    rank, size = len(window), y.shape[1:-1]
    stride, dilation = per_axis(stride, rank), per_axis(dilation, rank)
    extra = per_axis(output_padding, rank)
    full = [(n - 1) * s + (f - 1) * d + 1 for n, s, f, d in zip(size, stride, window, dilation, strict=True)]
    if padding in ("SAME", "SAME_LOWER"):
        target = [n * s for n, s in zip(size, stride, strict=True)]
        pads = pairs(padding, target, window, stride, dilation)
    else:
        pads = pairs(padding, size, window, stride, dilation)
        target = [n - low - high + e for n, (low, high), e in zip(full, pads, extra, strict=True)]
    # The canvas holds every scattered value; the output is the part of it from `low` on.
    canvas = [max(n, low + t) for n, (low, _), t in zip(full, pads, target, strict=True)]
    left = [max(-low, 0) for low, _ in pads]
    x = np.zeros((len(y), *(n + e for n, e in zip(canvas, left, strict=True)), outer * groups))
    for place in places(size):
        pixel = y[(slice(None), *place)]
        for tap, position in taps(place, window, stride, dilation):
            position = tuple(p + e for p, e in zip(position, left, strict=True))
            for g in range(groups):
                ins, outs = slice(g * inner // groups, (g + 1) * inner // groups), slice(g * outer, (g + 1) * outer)
                x[(slice(None), *position, outs)] += pixel[:, ins] @ kernel[tap][:, ins].T
    keep = [slice(low + e, low + e + t) for (low, _), e, t in zip(pads, left, target, strict=True)]
    x = x[(slice(None), *keep)]
    return x if bias is None else x + bias


def conv_local(x, kernel, bias=None, *, stride=1, padding="VALID", dilation=1):
    """kernel: ``(*output, *window, in, out)``; bias: broadcasts to ``(*output, out)``."""
    rank = x.ndim - 2
    size, window, out = kernel.shape[:rank], kernel.shape[rank:-2], kernel.shape[-1]
    stride, dilation = per_axis(stride, rank), per_axis(dilation, rank)
    x = padded(x, pairs(padding, x.shape[1:-1], window, stride, dilation))
    y = np.zeros((len(x), *size, out))
    for place in places(size):
        for tap, position in taps(place, window, stride, dilation):
            y[(slice(None), *place)] += x[(slice(None), *position)] @ kernel[(*place, *tap)]
    return y if bias is None else y + bias


def visits(x, window, stride, padding, dilation, ceil_mode):
    """Returns the output's spatial size and, for each of its places, (place, real, counted).

    ``real``: the positions of the window's taps inside the input, in the input's own coordinates, row-major.
    ``counted``: the number of its taps inside the input or its padding, so without those that hang over in ceil_mode.
    """
    size = x.shape[1:-1]
    window = per_axis(window, 2 if isinstance(window, int) else len(window))
    stride = window if stride is None else per_axis(stride, len(window))
    dilation = per_axis(dilation, len(window))
    pads = pairs(padding, size, window, stride, dilation)
    out = windows_that_fit(size, window, stride, pads, dilation, ceil_mode)
    result = []
    for place in places(out):
        real, counted = [], 0
        for _, position in taps(place, window, stride, dilation):
            position = tuple(p - low for p, (low, _) in zip(position, pads, strict=True))
            below = all(p < n + high for p, n, (_, high) in zip(position, size, pads, strict=True))
            counted += below
            if below and all(0 <= p < n for p, n in zip(position, size, strict=True)):
                real.append(position)
        result.append((place, real, counted))
    return out, result


def max_pool(x, window, *, stride=None, padding="VALID", dilation=1, ceil_mode=False):
    """Returns the maxima and their row-major index over the input's spatial axes; the first of equals."""
    size, windows = visits(x, window, stride, padding, dilation, ceil_mode)
    y = np.full((len(x), *size, x.shape[-1]), -np.inf)
    indices = np.full(y.shape, -1)
    for place, real, _ in windows:
        for n, c in places((len(x), x.shape[-1])):
            for position in real:
                value = x[(n, *position, c)]
                if indices[(n, *place, c)] < 0 or value > y[(n, *place, c)]:
                    y[(n, *place, c)] = value
                    indices[(n, *place, c)] = np.ravel_multi_index(position, x.shape[1:-1])
    return y, indices


def max_unpool(y, indices, size):
    """Each value at its index, zero elsewhere."""
    x = np.zeros((len(y), math.prod(size), y.shape[-1]))
    for place in places(y.shape):
        x[place[0], indices[place], place[-1]] = y[place]
    return x.reshape(len(y), *size, y.shape[-1])


def avg_pool(x, window, *, stride=None, padding="VALID", dilation=1, ceil_mode=False, count_include_pad=True):
    size, windows = visits(x, window, stride, padding, dilation, ceil_mode)
    y = np.zeros((len(x), *size, x.shape[-1]))
    for place, real, counted in windows:
        total = sum(x[(slice(None), *position)] for position in real)
        y[(slice(None), *place)] = total / (counted if count_include_pad else len(real))
    return y


def lp_pool(x, window, *, p=2, stride=None, padding="VALID", dilation=1, ceil_mode=False):
    size, windows = visits(x, window, stride, padding, dilation, ceil_mode)
    y = np.zeros((len(x), *size, x.shape[-1]))
    for place, real, _ in windows:
        y[(slice(None), *place)] = sum(abs(x[(slice(None), *position)]) ** p for position in real) ** (1 / p)
    return y
