"""The table of what other libraries call it, docs/peers.toml, and the page made of it.

Run ``python -m experiments.docs.peers`` to write docs/from_peers.md.
"""

import dataclasses
import functools
import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.docs import DOCS

TABLE = DOCS / "peers.toml"
PAGE = DOCS / "from_peers.md"

# How the table's calls begin, and the full name.
PREFIXES = {
    "F": "torch.nn.functional",
    "nn": "flax.linen",
    "nnx": "flax.nnx",
    "keras": "keras",
    "jax.lax": "jax.lax",
    "jax.image": "jax.image",
}

INTRO = """# From torch.nn.functional, flax and keras

Written by `python -m experiments.docs.peers` from docs/peers.toml. The tests run both columns of every
row on the same random arrays and compare the results.

The arrays are laid out as jaxconv's, channels last; in torch's column, arrays are channels first and kernels are
`(out, in, *window)`:
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One call, theirs and ours: statements divided by "; ", of which the last is an expression.

    ``arrays`` gives the shape of each array that the table names. ``compare`` is "values", or "distribution" for what
    is random.
    """

    section: str
    peer: str
    theirs: str
    ours: str
    note: str
    compare: str
    arrays: dict[str, tuple[int, ...]]


@functools.cache
def _table() -> dict[str, Any]:
    return tomllib.loads(TABLE.read_text())


def _shapes(arrays: dict[str, list[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in arrays.items()}


def rows() -> list[Row]:
    """Returns the table's rows."""
    return [
        Row(
            section["title"],
            section["peer"],
            theirs,
            ours,
            note[0] if note else "",
            section.get("compare", "values"),
            _shapes(_table()["arrays"] | section.get("on", {})),
        )
        for section in _table()["section"]
        for theirs, ours, *note in section["rows"]
    ]


def without() -> set[str]:
    """Returns the calls that the page names without a row.

    >>> "F.fold" in without()
    True
    """
    named = " ".join(theirs for theirs, _ in _table()["without"])
    return set(re.findall(r"`((?:F|nn|nnx|keras)\.[\w.]+)`", named))


def calls(row: Row) -> list[str]:
    """Returns the full names of the peer's functions and classes that the row calls.

    >>> [calls(row) for row in rows() if row.theirs == "F.conv1d(x1, k1, b)"]
    [['torch.nn.functional.conv1d']]
    """
    heads = "|".join(map(re.escape, PREFIXES))
    found = re.findall(rf"(?<![\w.])({heads})((?:\.\w+)+)(?=\()", row.theirs)
    return list(dict.fromkeys(PREFIXES[head] + rest for head, rest in found))


def op_of(layer: str) -> str:
    """Returns the name of the op that a layer runs; an op's is its own.

    >>> op_of("GlobalMaxPool"), op_of("conv")
    ('global_max_pool', 'conv')
    """
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer).lower()


def equals(name: str) -> list[str]:
    """Returns the full names of what peers call jaxconv's ``name``: an op, or a layer over it.

    >>> equals("global_max_pool") == equals("GlobalMaxPool")
    True
    >>> equals("global_max_pool")
    ['torch.nn.functional.adaptive_max_pool2d', 'keras.layers.GlobalMaxPooling1D']
    """
    begins = re.compile(rf"(\w+ = |y, new = )?jc\.({op_of(name)}|{name})\(")
    return list(dict.fromkeys(calls(row)[0] for row in rows() if begins.match(row.ours)))


def _code(statements: str) -> str:
    return "<br>".join(f"`{line}`" for line in statements.split("; "))


def _listed(arrays: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"`{name}` {shape}" for name, shape in arrays.items())


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def page() -> str:
    """Returns the page."""
    parts = [INTRO, _listed(_shapes(_table()["arrays"])) + ".\n"]
    for section in _table()["section"]:
        parts.append(f"## {section['title']}\n")
        if "text" in section:
            parts.append(section["text"].strip() + "\n")
        if "on" in section:
            parts.append(f"Here also {_listed(_shapes(section['on']))}.\n")
        cells = [(_code(theirs), _code(ours), "".join(note)) for theirs, ours, *note in section["rows"]]
        parts.append(_markdown(("theirs", "ours", ""), cells))
    return "\n".join([*parts, "## Without a row\n", _markdown(("theirs", "instead"), _table()["without"])])


if __name__ == "__main__":
    PAGE.write_text(page())
