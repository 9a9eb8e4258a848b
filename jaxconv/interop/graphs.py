"""What networks of imported graphs share, whatever the format of the file."""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from jaxconv.composite import Composite
from jaxconv.errors import ArgumentError, PathError
from jaxconv.interop.constants import Fixed
from jaxconv.layer import Children, Tree
from jaxconv.layers.base import Leaf


@dataclass(frozen=True, repr=False)
class GraphOperator(Leaf):
    """A node of a graph that is none of jaxconv's layers. Its input is a ``Call`` that the graph makes."""

    op: str
    attributes: tuple[tuple[str, Any], ...] = ()
    joins: ClassVar[bool] = True
    takes: ClassVar[type]

    @property
    def type_name(self) -> str:
        """The name of the operator, which tables and errors show."""
        return self.op

    def accept(self, x: Tree) -> None:
        if not isinstance(x, self.takes):
            raise ArgumentError(f"x must be given by the graph around this layer, got a {type(x).__name__}")


@dataclass(frozen=True, repr=False)
class GraphNetwork(Composite):
    """A network whose children are the nodes of a graph.

    Attributes:
      children: the nodes that depend on the input, by name.
      inputs: the inputs; ``x`` is an array where there is one, else a tuple or a dict by name.
      outputs: the names of the outputs in the graph, and in the dict that is returned where there are several.
      steps: the nodes, in an order in which they can run.
      constants: the arrays of the graph that are not parameters, by name.
      digest: a hash of the connections; with the children, it identifies the network.
      named: whether a single output is returned in a dict, too.
    """

    children: Children
    inputs: tuple[Any, ...] = field(repr=False)
    outputs: tuple[tuple[str, str], ...] = field(repr=False)
    steps: tuple[Any, ...] = field(repr=False)
    constants: tuple[tuple[str, Fixed], ...] = field(repr=False)
    digest: str
    named: bool = field(default=False, repr=False)

    def arguments(self) -> list[str]:
        return [f"{name}={layer!r}" for name, layer in self.children]

    def given(self, x: Tree) -> dict[str, Any]:
        """Returns the inputs by name, in their order."""
        names = [port.name for port in self.inputs]
        x = (x,) if hasattr(x, "shape") else x
        row = dict(zip(names, x, strict=False)) if isinstance(x, list | tuple) else {}
        given = dict(x) if isinstance(x, dict) else row
        if set(given) != set(names) or len(x) != len(names):
            got = list(given) if isinstance(x, dict) else f"{len(x)} of them" if given else f"a {type(x).__name__}"
            raise ArgumentError(f"x must have the inputs {names}, in this order or by name, got {got}")
        return {name: given[name] for name in names}

    def delivered(self, arrays: Iterable[Any]) -> Tree:
        """Returns the output of the network from the arrays of its ``outputs``."""
        # An OrderedDict, whose order jit preserves.
        found = OrderedDict(zip((public for _, public in self.outputs), arrays, strict=True))
        return found if self.named or len(found) > 1 else next(iter(found.values()))

    def cut(self, maps: Sequence[tuple[str, str]]) -> Self:
        """Returns the part of the graph that the layers at some paths need; its output is a dict of their outputs.

        `jaxconv.backbone` calls this. ``maps`` has pairs of a path and its name in the output.
        """
        made = {step.child: step.node.output for step in self.steps if step.child}
        for path, _ in maps:
            if path not in made:
                names = ", ".join(map(repr, list(made)[-8:]))
                raise PathError(f"paths must name a layer of the graph, got {path!r}: the last are {names}")
        outputs = tuple((made[path], public) for path, public in maps)
        wanted = {name for name, _ in outputs}
        steps: list[Any] = []
        for step in reversed(self.steps):
            if step.node.makes(wanted):
                steps.insert(0, step)
                wanted |= set(step.node.inputs)
        used = {step.child for step in steps}
        return dataclasses.replace(
            self,
            children=tuple((name, layer) for name, layer in self.children if name in used),
            outputs=outputs,
            steps=tuple(steps),
            constants=tuple((name, fixed) for name, fixed in self.constants if name in wanted),
            digest=f"{self.digest}:{','.join(name for name, _ in outputs)}",
            named=True,
        )
