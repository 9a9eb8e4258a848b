"""`explore`: the steps that fill an explorer's folder, each of which is skipped where its files are complete."""

import json
import os
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.described import name_of
from jaxconv.equal_batches import Preprocess
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.extras import need
from jaxconv.geometry import as_int
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import check_hashable, check_outside, random_key
from jaxconv.inspect.descent import import_optax
from jaxconv.inspect.explorer import plan
from jaxconv.inspect.explorer import steps as work
from jaxconv.inspect.explorer.folder import Folder, digest, import_pillow
from jaxconv.inspect.explorer.plan import Explored
from jaxconv.inspect.explorer.steps import Tick
from jaxconv.inspect.table import type_of
from jaxconv.inspect.trace import trace
from jaxconv.keys import KeyLike
from jaxconv.layer import Layer, Params, State

_PAGE = ("explorer.css", "explorer.js")


def _check_images(images: Any) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] not in (1, 3):
        raise ShapeError(
            f"images must have shape (count, height, width, 1 or 3), with at least one, got {images.shape}"
        )
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ArgumentError(f"images must be uint8 or floats in [0, 1], got {images.dtype}")
    if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):
        raise ArgumentError(f"images must be uint8 or floats in [0, 1], got {images.min():.4g} to {images.max():.4g}")
    return images


def _names(names: Sequence[str] | None, y: Any) -> list[str] | None:
    if names is None:
        return None
    if isinstance(names, str) or len(getattr(y, "shape", ())) != 2 or len(names) != y.shape[1]:
        raise ArgumentError(
            f"names must be one for each class of an output (batch, classes), got {len(names)} for an output "
            f"{' '.join(str(leaf.shape) for leaf in jax.tree.leaves(y))}"
        )
    return [str(name) for name in names]


def explore(
    net: Layer,
    params: Params,
    state: State,
    images: Any,
    out: str | os.PathLike[str],
    *,
    preprocess: Preprocess | None = None,
    names: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    units: int | None = 64,
    patches: int = 9,
    shown: int = 12,
    size: int = 96,
    steps: int = 64,
    batch_size: int = 16,
    key: KeyLike | None = None,
    title: str = "Network",
    progress: bool = True,
) -> Path:
    """Writes a folder of web pages about a network, in the manner of OpenAI Microscope, that open from disk.

    The pages show the network's layers with shapes; for each unit of the explored layers its preferred input, the image
    patches with the highest activations, its receptive field on the image, the distribution of its activations, and the
    channels before it that contribute most to it; and for an image the response of each layer, Grad-CAM, and the most
    active units. A loop on the host. A call with the same arguments continues an interrupted run.

    Args:
      net: a layer.
      params, state: arguments of ``net.apply``.
      images: array of shape ``(count, height, width, 1 or 3)``, uint8 or floats in [0, 1]: the data set of the patches
        and distributions.
      out: a new or empty folder, or one that a call with the same arguments has begun.
      preprocess: maps images in [0, 1] to the network's input; None passes them unchanged.
      names: the names of the classes, where the network returns class scores.
      paths: the layers whose units are explored; None, the blocks of the network, and its other layers with a kernel
        with their norms.
      units: the largest number of units of a layer, evenly spaced; None, all.
      patches: patches of each unit, from as many images.
      shown: the number of images, the first, whose responses are shown.
      size: the side of preferred inputs, smaller for units with a small receptive field. A network that accepts only
        images of the given size has preferred inputs of that size.
      steps: steps of gradient ascent for each preferred input.
      batch_size: images for each call of the network.
      key: a random key for the preferred inputs; None is seed 0.
      title: the title of the pages.
      progress: whether to show a progress bar.

    Returns:
      The path of ``index.html``. It is written last: where it exists, the folder is complete.

    Raises:
      ValueError: images have another shape or range; the network does not accept them; a path names no layer, or one
        without units; names do not fit the output; the folder holds something else, or an explorer of other arguments.
      FloatingPointError: an activation is not finite.
      ImportError: Optax, tqdm or Pillow is not installed.

    >>> import tempfile
    >>> net = jc.serial(conv=jc.Conv(3), relu=jax.nn.relu, pool=jc.GlobalAvgPool(), fc=jc.Dense(2))
    >>> params, state = net.init(jax.random.key(0), (1, 16, 16, 3))
    >>> images = jax.random.uniform(jax.random.key(1), (4, 16, 16, 3))
    >>> with tempfile.TemporaryDirectory() as out:
    ...     page = explore(net, params, state, images, out, shown=2, steps=2, batch_size=4, progress=False)
    ...     page.name, "explorer.js" in page.read_text()
    ('index.html', True)
    """
    check_outside("explore", params, state, images, inside="jaxconv.inspect.activations")
    check_hashable(net, preprocess=preprocess)
    import_optax()
    import_pillow()
    given = _check_images(images)
    numbers = {"units": 1 if units is None else units, "patches": patches, "size": size, "steps": steps}
    numbers = {name: as_int(n, name, least=1) for name, n in (numbers | {"batch_size": batch_size}).items()}
    shown = min(as_int(shown, "shown", least=0), len(given))
    made = work.Explorer(net, params, state, given, preprocess)
    struct = jax.ShapeDtypeStruct((1, *given.shape[1:]), jnp.float32)
    x = jax.eval_shape(preprocess, struct) if preprocess else struct
    y, _ = jax.eval_shape(lambda x: activations(net, params, state, x), x)
    rows = {row.path: row for row in trace(net, x)}
    if x.shape[1:-1] != given.shape[1:-1]:
        raise ShapeError(f"preprocess must keep the images' size {given.shape[1:-1]}, got {x.shape[1:-1]}")
    layers = plan.chosen(net, rows, paths, units)
    classes = _names(names, y)
    folder = Folder(
        out,
        {
            "network": f"{net!r}",
            "weights": digest((params, state)),
            "images": digest(given),
            "preprocess": None if preprocess is None else name_of(preprocess),
            "paths": [e.path for e in layers],
            "key": np.asarray(jax.random.key_data(random_key(key))).tolist(),
            "units": units,
            "shown": shown,
            **{name: n for name, n in numbers.items() if name != "units"},
        },
    )
    sides = work.sides_of(made, layers, size)
    jobs = {
        "survey": -(-len(given) // min(batch_size, len(given))),
        "feeds": -(-min(2, patches, len(given)) * sum(len(e.units) for e in layers) // batch_size),
        "images": shown,
        "preferred": steps * sum(-(-len(e.units) // batch_size) for e in layers),
    }
    with _bar(sum(jobs.values()), progress) as tick:
        survey = _kept(folder, "survey", jobs, tick, lambda: work.survey(made, layers, patches, batch_size, tick))
        feeds = _kept(folder, "feeds", jobs, tick, lambda: work.feeds(made, layers, survey, batch_size, tick))
        entries = _kept(
            folder, "images", jobs, tick, lambda: work.responses(made, layers, shown, classes, folder, tick)
        )
        preferred = work.preferred(made, layers, sides, steps, batch_size, key, folder, tick)
    used = {top[0] for units_of in survey.values() for unit in units_of for top in unit["top"]} | set(range(shown))
    files = {}
    for i in sorted(used):
        known = [name for name in (f"images/{i}.jpg", f"images/{i}.png") if folder.has(name)]
        files[i] = known[0] if known else folder.write_image(f"images/{i}", given[i])
    content = {
        "title": title,
        "network": plan.described(rows, net, "", ())[0],
        "input": list(given.shape[1:]),
        "files": files,
        "shown": entries,
        "layers": [
            {
                "path": e.path,
                "type": type_of(e.row.layer),
                "shape": list(e.row.output.shape[1:]),
                "parameters": e.row.parameters,
                "field": plan.field_of(e.row),
                "units": [
                    {
                        "channel": c,
                        "name": classes[c] if classes and _is_output(e, rows) else None,
                        "image": image,
                        "feeds": fed,
                        **about,
                    }
                    for c, image, fed, about in zip(
                        e.units, preferred[e.path], feeds[e.path], survey[e.path], strict=True
                    )
                ],
            }
            for e in layers
        ],
    }
    folder.write("data.js", b"const EXPLORER = " + _script(content) + b";\n")
    for name in _PAGE:
        folder.write(name, _resource(name))
    folder.write("index.html", _resource("index.html").replace(b"TITLE", _escaped(title)))
    return folder.path / "index.html"


def _is_output(e: Explored, rows: dict[str, Any]) -> bool:
    """Returns whether a layer is the last: its channels are the classes."""
    last = [path for path in rows if path][-1]
    return e.path == last or last.startswith(e.path + ".")


def _kept(folder: Folder, name: str, jobs: dict[str, int], tick: Tick, make: Callable[[], Any]) -> Any:
    """Returns the result of a step, from its file where that is complete."""
    file = f"parts/{name}.json"
    if folder.has(file):
        tick(jobs[name], name)
    else:
        folder.write_json(file, make())
    return folder.read_json(file)


class _bar:
    """A progress bar, as a context; its value is a function of the steps that are done and what they are."""

    def __init__(self, total: int, show: bool):
        self.bar = need("tqdm.auto", "explore", "train").tqdm(
            total=total, unit="step", dynamic_ncols=True, disable=not show
        )

    def __enter__(self) -> Tick:
        def tick(steps: int, what: str) -> None:
            self.bar.set_description(what, refresh=False)
            self.bar.update(steps)

        return tick

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def _resource(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()


def _escaped(text: str) -> bytes:
    return text.replace("&", "&amp;").replace("<", "&lt;").encode()


def _script(value: Any) -> bytes:
    """Returns JSON that can be a part of a script."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c").encode()


__all__ = ["explore"]
