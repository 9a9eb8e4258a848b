"""Which mapping of a torch checkpoint is the state dict."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxconv.weights.errors import WeightsError
from jaxconv.weights.unpickle import Foreign

IsTensor = Callable[[Any], bool]


def state_dict(saved: Any, is_tensor: IsTensor, *, key: str | None) -> Mapping[str, Any]:
    """Returns the saved mapping of names to tensors, or the one such mapping among its values.

    Entries that are not tensors, torch's ``_extra_state``, are omitted.
    """

    def odd(value: Mapping[Any, Any]) -> dict[Any, Any]:
        """Returns the entries that are not names and tensors."""
        return {n: v for n, v in value.items() if not isinstance(n, str) or not (is_tensor(v) or _is_extra(n))}

    def tensors(value: Mapping[Any, Any]) -> Mapping[str, Any]:
        return {n: v for n, v in value.items() if is_tensor(v)} if any(map(_is_extra, value)) else value

    if isinstance(saved, Foreign):
        raise saved.refusal()
    if not isinstance(saved, Mapping):
        raise WeightsError(f"it has a {type(saved).__name__}, not a mapping of names to tensors")
    if key is None and not odd(saved):
        return tensors(saved)
    mappings = {name: value for name, value in saved.items() if isinstance(value, Mapping) and value}
    inside = [name for name, value in mappings.items() if not odd(value)]
    if key is None and len(inside) == 1:
        return tensors(saved[inside[0]])
    if key in inside:
        return tensors(saved[key])
    # Mappings that would be state dicts without foreign objects: that of the key, or those with tensors, or the whole.
    near = [mappings[key]] if key in mappings else []
    if key is None and not inside:
        near = [mapping for mapping in mappings.values() if any(map(is_tensor, mapping.values()))]
        near = near or [saved, *mappings.values()]
    for mapping in near:
        values = list(odd(mapping).values())
        foreign = [value for value in values if isinstance(value, Foreign)]
        if foreign and (len(foreign) == len(values) or len(values) == len(mapping)):
            raise foreign[0].refusal()
    found = f"those are {' and '.join(f'key={name!r}' for name in inside)}" if inside else "none of them is one"
    listed = saved if inside or key else odd(saved)
    kinds = [f"{name!r} ({_named(value)})" for name, value in listed.items()]
    what = f"it has {', '.join(kinds[:20]) or 'nothing'}{', ...' if len(kinds) > 20 else ''}"
    where = f" under {key!r}" if key else ""
    raise WeightsError(f"{what}, but a mapping of names to tensors is needed{where}: {found}")


def _named(value: Any) -> str:
    return value.name if isinstance(value, Foreign) else type(value).__name__


def _is_extra(name: Any) -> bool:
    return isinstance(name, str) and name.split(".")[-1] == "_extra_state"
