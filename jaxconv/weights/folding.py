"""Weights that torch computes from other tensors: weight norm and spectral norm.

Under ``torch.nn.utils.weight_norm`` (Salimans & Kingma, 2016) a state dict has ``weight_g`` and ``weight_v`` in place
of ``weight``, under ``spectral_norm`` (Miyato et al., 2018) ``weight_orig``, ``weight_u`` and ``weight_v``. Under
``torch.nn.utils.parametrizations`` they are ``parametrizations.weight.original0`` and ``original1``, or ``original``,
``0._u`` and ``0._v``. Networks of jaxconv store the weight itself.
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

import jaxconv.layers as nn
from jaxconv.weights.arrays import Arrays
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.places import Place


def weight_norm(g: np.ndarray, v: np.ndarray) -> np.ndarray:
    r"""Returns $g\,v / \lVert v\rVert$, the norm over the axes along which ``g`` has length 1: all but torch's ``dim``.

    >>> weight_norm(np.array([[1.0], [2.0]]), np.array([[3.0, 4.0], [0.0, 5.0]]))
    array([[0.6, 0.8],
           [0. , 2. ]])
    """
    axes = tuple(i for i in range(v.ndim) if g.ndim == 0 or g.shape[i] == 1)
    wide = v.astype(np.float64)
    return g * wide / np.sqrt(np.sum(wide**2, axes, keepdims=True))


def spectral_norm(weight: np.ndarray, u: np.ndarray, v: np.ndarray, dim: int) -> np.ndarray:
    r"""Returns $W / (u^\top W v)$, where axis ``dim`` of the weight gives the rows of the matrix $W$.

    >>> spectral_norm(np.diag([4.0, 2.0]), np.array([1.0, 0.0]), np.array([1.0, 0.0]), 0)
    array([[1. , 0. ],
           [0. , 0.5]])
    """
    rows = _rows(weight, dim)
    return weight.astype(np.float64) / (u @ rows @ v)


def _rows(weight: np.ndarray, dim: int) -> np.ndarray:
    return np.moveaxis(weight.astype(np.float64), dim, 0).reshape(weight.shape[dim], -1)


def _axis(weight: np.ndarray, u: np.ndarray, v: np.ndarray, transposed: bool) -> int | None:
    """Returns the axis of the weight that gives rows of the length of u.

    If several axes fit, it is torch's default, unless the vectors come from the power iteration along another axis.
    """
    if not (weight.ndim and u.ndim == v.ndim == 1 and u.size * v.size == weight.size):
        return None
    fitting = [i for i, n in enumerate(weight.shape) if n == u.size]
    default = 1 if transposed else 0
    if len(fitting) < 2 or default not in fitting:
        return next(iter(fitting), None)

    def iterated(dim: int) -> bool:
        rows = _rows(weight, dim)
        pairs = (rows @ v, u), (rows.T @ u, v)
        return any(a @ b > 0.99 * np.linalg.norm(a) * np.linalg.norm(b) for a, b in pairs)

    return default if iterated(default) else next((dim for dim in fitting if iterated(dim)), default)


def _parts(name: str, tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, str], bool]:
    """Returns the parts of a weight that exist, names by roles, and whether all parts are known.

    The roles are "g", "v" of weight norm, "weight" of spectral norm, and "u0", "v0" of the first parametrization, ....
    """
    before, _, last = name.rpartition(".")
    stem = f"{before}.parametrizations.{last}." if before else f"parametrizations.{last}."
    under = [n.removeprefix(stem) for n in tensors if n.startswith(stem)]
    if under:
        names = {"original0": "g", "original1": "v", "original": "weight"}
        for part in under:
            number, _, vector = part.partition(".")
            if number.isdigit() and vector in ("_u", "_v"):
                names[part] = f"{vector[1:]}{number}"
        return {names[part]: stem + part for part in under if part in names}, set(under) <= set(names)
    roles = {"weight": "_orig", "u0": "_u", "v0": "_v"} if f"{name}_orig" in tensors else {"g": "_g", "v": "_v"}
    return {role: name + end for role, end in roles.items() if name + end in tensors}, True


def base(name: str) -> str:
    """Returns the name of the weight that a tensor is a part of; other names unchanged.

    >>> base("conv.weight_g"), base("conv.parametrizations.weight.0._u"), base("conv.bias")
    ('conv.weight', 'conv.weight', 'conv.bias')
    """
    name = re.sub(r"\bparametrizations\.(\w+)\..+$", r"\1", name)
    return re.sub(r"\bweight_(g|v|u|orig)$", "weight", name)


def folded(places: Iterable[Place], tensors: Arrays) -> Arrays:
    """Returns the tensors; each missing weight is computed from its parts, which are removed.

    Raises:
      WeightsError: the shapes of the parts do not fit each other.
    """
    found = dict(tensors)
    for place in places:
        for name in place.theirs:
            if name in tensors:
                continue
            parts, known = _parts(name, tensors)
            arrays = {role: tensors[part] for role, part in parts.items()}
            # Weight norm has two tensors; it is the first of several parametrizations.
            rounds = range(1, len(parts) // 2) if "g" in parts else range((len(parts) - 1) // 2)
            roles = {*(("g", "v") if "g" in parts else ("weight",)), *(f"{x}{i}" for x in "uv" for i in rounds)}
            if known and len(parts) > 1 and roles == set(parts):
                found = {n: a for n, a in found.items() if n not in parts.values()}
                found[name] = _computed(name, arrays, rounds, isinstance(place.layer, nn.ConvTranspose))
    return found


def _computed(name: str, arrays: Arrays, rounds: range, transposed: bool) -> np.ndarray:
    source = arrays["v"] if "g" in arrays else arrays["weight"]
    weight = source
    # A norm of zero gives values that are not finite, as in torch. Filling refuses them.
    with np.errstate(all="ignore"):
        if "g" in arrays:
            shape = arrays["g"].shape
            if shape and (
                len(shape) != source.ndim or any(n not in (1, m) for n, m in zip(shape, source.shape, strict=True))
            ):
                raise WeightsError(f"{name}'s weight norm must have norms of shape {source.shape}, or 1s, got {shape}")
            weight = weight_norm(arrays["g"], source)
        for i in rounds:
            u, v = (arrays[f"{vector}{i}"].astype(np.float64) for vector in "uv")
            dim = _axis(source, u, v, transposed)
            if dim is None:
                raise WeightsError(
                    f"{name}'s spectral norm must have vectors that fit {source.shape}, got {u.shape} and {v.shape}"
                )
            weight = spectral_norm(weight, u, v, dim)
    return weight.astype(source.dtype)
