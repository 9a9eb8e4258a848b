"""Likely causes for tensors that do not fit a network."""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jaxconv.layers as nn
from jaxconv.layer import Layer, Params
from jaxconv.layers.base import Shape
from jaxconv.models.inception import AUXILIARY as INCEPTION
from jaxconv.models.segmentation import AUXILIARY as SEGMENTATION
from jaxconv.weights.arrays import Path, leaves
from jaxconv.weights.folding import base
from jaxconv.weights.places import nodes
from jaxconv.weights.stored import fits

# How the names of tensors of auxiliary heads begin, and the argument that adds these heads to a network.
AUXILIARY = INCEPTION | SEGMENTATION


class Misfit(NamedTuple):
    """Tensors that do not fit a network.

    Attributes:
      tensors: all tensors by name.
      wanted: for the name of each tensor that the network needs, the layer's path, in the network's order.
      extra: names of tensors that no layer stores.
      missing: names of tensors that the network needs and the source lacks.
      wrong: by name, the required shape and the tensor's shape.
      kinds: for the name of each tensor that the network needs, the type of its layer.
    """

    tensors: Mapping[str, Any]
    wanted: Mapping[str, Path]
    extra: list[str]
    missing: list[str]
    wrong: Mapping[str, tuple[Shape, tuple[int, ...]]]
    kinds: Mapping[str, type]


def _leading(misfit: Misfit) -> str | None:
    """All names begin with a prefix that the network lacks, such as "module.", and most fit without it."""
    names = list(misfit.tensors)
    for end in (m.end() for m in re.finditer(r"[./]", names[0])) if names else ():
        prefix = names[0][:end]
        if not all(name.startswith(prefix) for name in names):
            return None
        if 2 * sum(base(name.removeprefix(prefix)) in misfit.wanted for name in names) > len(names):
            return f'all names begin with {prefix!r}: give rename={{"{prefix}": ""}}'
    return None


def _copies(misfit: Misfit) -> str | None:
    """All tensors that the network needs have a common prefix; a counter or another copy is beside them."""
    under: dict[str, set[str]] = {}
    for name in misfit.tensors:
        for end in (m.end() for m in re.finditer(r"[./]", name)):
            under.setdefault(name[:end], set()).add(base(name[end:]))
    fitting = [prefix for prefix, names in under.items() if misfit.wanted.keys() <= names]
    if not fitting or not misfit.wanted or not misfit.wanted.keys().isdisjoint(misfit.tensors):
        return None
    first, others = fitting[0], [name for name in misfit.tensors if not name.startswith(fitting[0])]
    dropped = dict.fromkeys(name[: m.end()] if (m := re.search(r"[./]", name)) else name for name in others)
    rename = ", ".join([f'"{first}": ""', *(f'"{part}": None' for part in dropped)])
    which = f" for the first of {', '.join(map(repr, fitting))}" if len(fitting) > 1 else ""
    return f"all that the net has is there behind {first!r}: give rename={{{rename}}}{which}"


def _parametrized(misfit: Misfit) -> str | None:
    """torch computes a weight from others by a parametrization that is not supported."""
    name = next((name for name in misfit.extra if base(name) != name and base(name) in misfit.missing), None)
    return name and (
        f"{base(name)} is computed from {name} and others by a parametrization that has no rule: in torch call "
        "torch.nn.utils.parametrize.remove_parametrizations(module, name), then save the state dict"
    )


def _affine(misfit: Misfit) -> str | None:
    """Layers have a scale and a bias by default, torch's do not."""
    kinds = {misfit.kinds.get(name) for name in misfit.missing}
    if kinds != {nn.InstanceNorm} or misfit.extra:
        return None
    return "torch's InstanceNorm has neither by default (affine=False): give InstanceNorm(scale=False, bias=False)"


def _auxiliary(misfit: Misfit) -> str | None:
    """Either the network or the source has an auxiliary head, and the other lacks it."""

    def heads(names: list[str]) -> list[str]:
        found = [next((head for head in AUXILIARY if name.startswith(head)), "") for name in names]
        return list(dict.fromkeys(found))

    extra, missing = heads(misfit.extra), heads(misfit.missing)
    if extra and all(extra):
        drop = ", ".join(f'"{head}": None' for head in extra)
        return f"they are an auxiliary head's: make the net with {AUXILIARY[extra[0]]}=True, or give rename={{{drop}}}"
    if missing and all(missing) and not extra:
        return f"they are an auxiliary head's: make the net with {AUXILIARY[missing[0]]}=False"
    return None


def _classes(misfit: Misfit) -> str | None:
    """The last layer, and perhaps an auxiliary head, has another number of classes, or is missing."""
    bad = [name for name in (*misfit.missing, *misfit.wrong) if name in misfit.wanted]
    heads = list(dict.fromkeys(misfit.wanted[name] for name in bad))
    kept = {path for name, path in misfit.wanted.items() if name not in bad}
    last = [*misfit.wanted.values()][-1:]
    if misfit.extra or not kept or not kept.isdisjoint(heads) or not set(last) <= set(heads):
        return None
    numbers = {
        (shape[0], got[0]) if shape and got and fits(got[1:], shape[1:]) else None
        for shape, got in misfit.wrong.values()
    }
    if None in numbers or len(numbers) > 1 or (misfit.missing and heads != last):
        return None
    head = "".join(f'["{part}"]' for part in heads[0])
    return (
        "for another number of classes fill a net of as many as the tensors have, then give it this net's fresh head: "
        f"params{head} = net.init(key, x)[0]{head}"
    )


# The most likely cause first; the first that returns a line is shown.
CAUSES: tuple[Callable[[Misfit], str | None], ...] = (_leading, _copies, _parametrized, _affine, _auxiliary, _classes)


def hints(misfit: Misfit) -> list[str]:
    """Returns a line about the most likely cause, if one is found."""
    return [f"hint: {line}" for line in (cause(misfit) for cause in CAUSES) if line][:1]


def warn_of_flatten(net: Layer, params: Params, *, channels_first: bool) -> None:
    """Warns of a Dense layer after a Flatten with another order of axes than in the other library.

    Feature maps with a single position have only one order. Without a layer with channels before the Flatten the
    order is not checked.
    """
    arrays = leaves(params)
    channels, flatten = 0, ""
    for layer, path, _, _ in nodes(net):
        if isinstance(layer, nn.Flatten):
            flatten = "" if layer.channels_first == channels_first else ".".join(path)
        shape = getattr(arrays.get((*path, "kernel"), arrays.get((*path, "bias"))), "shape", ())
        if isinstance(layer, nn.Dense) and flatten and shape and channels and shape[-2] > channels:
            warnings.warn(
                f"the rows of {'.'.join(path)} are in another order there: it stands behind {flatten}, which must be "
                f"Flatten(channels_first={channels_first}) to give the same numbers",
                stacklevel=3,
            )
            return
        if shape:
            channels, flatten = shape[-1], ""
