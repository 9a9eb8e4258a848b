"""Which names a package shows to `dir`, to ``from ... import *`` and to the reference."""

from types import ModuleType
from typing import Any


def public_names(namespace: dict[str, Any]) -> list[str]:
    """Returns the names that a package has collected from its modules: not the modules, and nothing of other packages.

    Args:
      namespace: the package's ``globals()``.

    >>> import jaxconv.ops
    >>> public_names(vars(jaxconv.ops))[:3]
    ['adaptive_avg_pool', 'adaptive_max_pool', 'anchor_grid']
    """
    return sorted(
        name
        for name, value in namespace.items()
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and (getattr(value, "__module__", None) or "").startswith("jaxconv")
    )
