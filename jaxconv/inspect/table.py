"""The table of a network: shapes, parameters, multiply-adds and receptive fields, computed from shapes."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax

from jaxconv.compose.wrappers import iterations
from jaxconv.composite import Composite
from jaxconv.fields import Field
from jaxconv.inspect.trace import Fields, Row, trace
from jaxconv.layer import Layer, Tree
from jaxconv.layers import Fn
from jaxconv.structs import as_struct
from jaxconv.tree import visits

_HEADS = ("path", "layer", "output", "params", "MACs", "receptive field")


def _shapes(tree: Tree) -> str:
    return " ".join(str(tuple(leaf.shape)) for leaf in jax.tree.leaves(tree))


def _interval(field: Field) -> str:
    size, stride, _ = (f"{float(value):.4g}" for value in field)
    return ("" if field.exact else "~") + (size if field.stride == 0 else f"{size} / {stride}")


def _fields(fields: Fields) -> str:
    """Prints ``size / stride`` of each axis, once if all are the same."""
    if fields is None:
        return "?"
    shown = [_interval(f) for f in fields]
    return shown[0] if shown and len(set(shown)) == 1 else " x ".join(shown)


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}" if number else ""


@dataclass(frozen=True, repr=False)
class Summary:
    """The result of `summary`: ``str()`` for a terminal, a table in a notebook, attributes for code.

    Attributes:
      rows: a `jaxconv.inspect.Row` for each layer that is not a composite.
      input: the input's ShapeDtypeStruct, or a pytree of them.
      times: by path, the number of iterations of a layer inside `jaxconv.repeat`. The row counts all iterations.
    """

    rows: Sequence[Row]
    input: Tree
    times: Mapping[str, int] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """The number of values in ``params``."""
        return sum(row.parameters for row in self.rows)

    @property
    def state_size(self) -> int:
        """The number of values in ``state``."""
        return sum(row.state_size for row in self.rows)

    @property
    def macs(self) -> int:
        """The multiply-adds for the whole batch, of the layers where the count is known."""
        return sum(row.macs or 0 for row in self.rows)

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.path,
                type_of(row.layer) + (f" x{self.times[row.path]}" if row.path in self.times else ""),
                _shapes(row.output),
                _count(row.parameters),
                _count(row.macs),
                _fields(row.receptive_field),
            )
            for row in self.rows
        ]

    def _totals(self) -> str:
        unknown = sum(row.macs is None for row in self.rows)
        layers = "1 layer" if unknown == 1 else f"{unknown} layers"
        state = f"{self.state_size:,} values of state, " if self.state_size else ""
        more = f"; the multiply-adds of {layers} are unknown" if unknown else ""
        return (
            f"{self.parameters:,} parameters, {state}{self.macs:,} multiply-adds on input {_shapes(self.input)}{more}"
        )

    def __str__(self) -> str:
        cells = [_HEADS, *self._cells()]
        widths = [max(len(row[i]) for row in cells) for i in range(len(_HEADS))]
        numeric = {3, 4}

        def line(row: tuple[str, ...]) -> str:
            return "  ".join(
                c.rjust(w) if i in numeric else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()

        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([line(_HEADS), rule, *map(line, cells[1:]), rule, self._totals()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(tag: str, values: Sequence[str]) -> str:
            right = ' style="text-align:right"'
            cells = (f"<{tag}{right if i in (3, 4) else ''}>{html.escape(v)}</{tag}>" for i, v in enumerate(values))
            return f"<tr>{''.join(cells)}</tr>"

        body = "".join(row("td", values) for values in self._cells())
        return (
            f"<table><thead>{row('th', _HEADS)}</thead><tbody>{body}</tbody>"
            f"<caption>{html.escape(self._totals())}</caption></table>"
        )


def type_of(layer: Layer) -> str:
    """Returns the name of the layer's class, of the function that it wraps, or its ``type_name``."""
    if isinstance(layer, Fn):
        return getattr(layer.function, "__name__", type(layer.function).__name__)
    return getattr(layer, "type_name", type(layer).__name__)


def summary(net: Layer, x: Tree) -> Summary:
    """Returns the table of a network on inputs shaped like ``x``; only shapes are computed.

    A custom composite has one row, unless it is a `jaxconv.Composite`. A receptive field is printed as
    ``size / stride``, without the stride where all units see the same elements. ``~`` marks a field that is not exact,
    ``?`` an unknown field. A layer inside `jaxconv.repeat` has one row, such as ``Conv x3``.

    Args:
      net: a layer.
      x: an array, a ShapeDtypeStruct or a shape tuple, batch axis included.

    Raises:
      ShapeError: a layer does not accept its input; the error begins with the layer's path.

    >>> print(summary(jc.serial(jc.Conv(10, 5, padding=2), jax.nn.relu, jc.MaxPool(2)), (1, 32, 32, 3)))
    path  layer    output           params     MACs  receptive field
    ----------------------------------------------------------------
    0     Conv     (1, 32, 32, 10)     760  768,000  5 / 1
    1     relu     (1, 32, 32, 10)                   5 / 1
    2     MaxPool  (1, 16, 16, 10)                   6 / 2
    ----------------------------------------------------------------
    760 parameters, 768,000 multiply-adds on input (1, 32, 32, 3)
    """
    rows = [row for row in trace(net, x) if not isinstance(row.layer, Composite)]
    times = {".".join(visit.path): math.prod(iterations(visit)) for visit in visits(net) if iterations(visit)}
    return Summary(tuple(rows), as_struct(x), {path: n for path, n in times.items() if n > 1})
