"""Optional packages, and the error that says how to install one that is missing."""

import importlib
import importlib.util
from typing import Any

# Packages whose name for pip is not that of the module.
PACKAGES = {
    "PIL": "Pillow",
    "cykooz_resizer": "cykooz-resizer",
    "faiss": "faiss-cpu",
    "orbax": "orbax-checkpoint",
    "skimage": "scikit-image",
}


def need(module: str, use: str, extra: str) -> Any:
    """Returns a module of an optional package.

    Args:
      module: the module's name, for example "PIL.Image".
      use: what needs the package, the subject of the error.
      extra: the extra of this project that has the package.

    Raises:
      ModuleNotFoundError: the package is not installed.

    >>> need("no_such_package", "reading .xyz", "data")
    Traceback (most recent call last):
      ...
    ModuleNotFoundError: reading .xyz needs the package no_such_package: pip install '.[data]' in a checkout of jaxconv
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Another missing module is a fault of the package's installation, which its own error tells best.
        if (error.name or "").split(".")[0] != module.split(".")[0]:
            raise
        raise not_installed(use, [module], extra) from error


def missing(use: str, *modules: str, extra: str) -> ModuleNotFoundError | None:
    """Returns the error if a package of these modules is not installed; imports none of them."""
    lacking = [module for module in modules if not importlib.util.find_spec(module.split(".")[0])]
    return not_installed(use, lacking, extra) if lacking else None


def not_installed(use: str, modules: list[str], extra: str) -> ModuleNotFoundError:
    """Returns the error about packages that are not installed."""
    names = [module.split(".")[0] for module in modules]
    packages = ", ".join(PACKAGES.get(name, name) for name in names)
    noun = "packages" if len(names) > 1 else "package"
    return ModuleNotFoundError(
        f"{use} needs the {noun} {packages}: pip install '.[{extra}]' in a checkout of jaxconv", name=names[0]
    )
