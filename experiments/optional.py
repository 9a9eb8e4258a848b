"""Packages of which some commands need one, imported at their first use.

    from experiments.optional import Image, figures, needed, optax

So ``--help`` of each command, and errors about its arguments, need jaxconv with jax and numpy only. At the top of a
module such a name is only bound; an annotation that takes an attribute of it is written in quotes. Once the arguments
are right, ``needed(Image, figures)`` raises one sentence with what to install, before work begins.
"""

from typing import TYPE_CHECKING, Any

from jaxconv.extras import need, not_installed

if TYPE_CHECKING:
    import optax as optax
    from matplotlib.figure import Figure as Figure
    from PIL import Image as Image
    from PIL import ImageDraw as ImageDraw
    from PIL import ImageFilter as ImageFilter
    from PIL import ImageFont as ImageFont
    from tqdm.auto import tqdm as tqdm

    from jaxconv import train as jaxconv_train
    from jaxconv.inspect import figures as figures
    from jaxconv.train import TrainState as TrainState
else:

    class Deferred:
        """A module, or one of its attributes, that is imported when an attribute of it is taken, or at a call.

        Args:
          module: the module's name.
          extra: the extra of this project that has its packages.
          attribute: None, the module itself.
          packages: the modules of the packages that it needs; by default its own.
        """

        def __init__(self, module: str, extra: str, attribute: str | None = None, packages: tuple[str, ...] = ()):
            self._module, self._extra, self._attribute = module, extra, attribute
            self._packages = packages or (module,)

        def _found(self) -> Any:
            found = need(self._module, "this command", self._extra)
            return getattr(found, self._attribute) if self._attribute else found

        def __getattr__(self, name: str) -> Any:
            # Tools ask any object for such names; it does not have them.
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(self._found(), name)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self._found()(*args, **kwargs)

    optax = Deferred("optax", "train")
    tqdm = Deferred("tqdm.auto", "train", "tqdm")
    jaxconv_train = Deferred("jaxconv.train", "train", packages=("optax", "orbax.checkpoint", "tqdm"))
    TrainState = Deferred("jaxconv.train", "train", "TrainState")
    Image, ImageDraw, ImageFilter, ImageFont = (
        Deferred(f"PIL.{name}", "data") for name in ("Image", "ImageDraw", "ImageFilter", "ImageFont")
    )
    Figure = Deferred("matplotlib.figure", "viz", "Figure")
    figures = Deferred("jaxconv.inspect.figures", "viz", packages=("matplotlib",))


def needed(*names: Any) -> None:
    """Raises ModuleNotFoundError with all packages of these names of this module that are not installed.

    >>> needed(jaxconv_train, figures)
    """
    lacking: dict[str, str] = {}
    for name in names:
        for module in name._packages:
            try:
                need(module, "this command", name._extra)
            except ModuleNotFoundError as error:
                lacking[error.name or module] = name._extra
    if lacking:
        raise not_installed("this command", [*lacking], ",".join(sorted(set(lacking.values()))))
