"""The steps of an explorer: what each computes and writes."""

import functools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.equal_batches import Preprocess, equal_batches
from jaxconv.inspect import objectives
from jaxconv.inspect.arguments import random_key
from jaxconv.inspect.explorer import measure, plan
from jaxconv.inspect.explorer.folder import Folder
from jaxconv.inspect.explorer.plan import Explored
from jaxconv.inspect.images import Parameterization
from jaxconv.inspect.maximization import maximize
from jaxconv.inspect.units import all_spans, seeing
from jaxconv.inspect.views import View
from jaxconv.keys import KeyLike
from jaxconv.layer import Layer, Params, State

Tick = Callable[[int, str], None]

_BINS = 24
# Activations of a unit that its histogram is made of, from each image.
_SAMPLES = 32
_FEEDS = 6
# The side of the preferred inputs of units with small receptive fields.
_SMALL = 48
_HEAT = 48


class Explorer:
    """The network, the images, and what is shown of them."""

    def __init__(self, net: Layer, params: Params, state: State, images: np.ndarray, preprocess: Preprocess | None):
        self.net, self.model, self.images, self.preprocess = net, (params, state), images, preprocess

    def floats(self, chosen: Any) -> np.ndarray:
        """Returns some images as floats in [0, 1]."""
        images = self.images[chosen]
        return images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)


def _batches(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields indices in batches of one size, the last filled with the first indices, and the number without these."""
    for start in range(0, count, size):
        yield np.arange(start, start + size) % count, min(size, count - start)


def survey(made: Explorer, layers: list[Explored], patches: int, batch_size: int, tick: Tick) -> dict[str, Any]:
    """Returns the distributions and the top patches of all units."""
    sizes = made.images.shape[1:-1]
    spans = {e.path: None if e.row.receptive_field is None else all_spans(e.row, sizes, True) for e in layers}
    grids = {e.path: e.row.output.shape[1:-1] for e in layers}
    sees, places = {}, {}
    rng = np.random.default_rng(0)
    for e in layers:
        n = int(np.prod(grids[e.path]))
        inside = spans[e.path]
        sees[e.path] = np.ones(n, bool) if inside is None else np.broadcast_to(seeing(inside, len(grids[e.path])), n)
        places[e.path] = rng.permutation(n)[:_SAMPLES]
    units = {e.path: np.array(e.units) for e in layers}
    look = functools.partial(measure.survey, made.net, tuple(units), made.preprocess, *made.model, units, sees, places)
    found: dict[str, list[Any]] = {path: [] for path in units}
    for part in equal_batches(np.arange(len(made.images)), batch_size):
        for path, arrays in look(made.floats(part.items)).items():
            found[path].append([np.asarray(a)[part.skip :] for a in arrays])
        tick(1, "activations")
    result = {}
    for e in layers:
        highest, where, samples = map(np.concatenate, zip(*found[e.path], strict=True))
        if not np.isfinite(samples).all() or not np.isfinite(highest).all():
            raise FloatingPointError(f"path {e.path!r} must have finite activations, got inf or NaN")
        order = np.argsort(-highest, axis=0, kind="stable")[: min(patches, len(highest))]
        rows = []
        for column in range(len(e.units)):
            top = []
            for i in order[:, column]:
                at = np.unravel_index(where[i, column], grids[e.path]) if grids[e.path] else ()
                box = _box(spans[e.path], at, sizes)
                top.append([int(i), float(highest[i, column]), *box, int(where[i, column])])
            rows.append({"top": top, "histogram": measure.histogram(samples[..., column], _BINS)})
        result[e.path] = rows
    return result


def _box(spans: list[np.ndarray] | None, at: Sequence[Any], sizes: Sequence[int]) -> list[int]:
    """Returns top, bottom, left and right of a receptive field."""
    if spans is None:
        return [0, sizes[0], 0, sizes[1]]
    return [int(n) for i, span in enumerate(spans) for n in span[int(at[i]) if i < len(at) else 0]]


def feeds(made: Explorer, layers: list[Explored], survey: Any, batch_size: int, tick: Tick) -> dict[str, Any]:
    """Returns for each unit the channels of the nearest earlier layer that contribute most to its top activations."""
    paths = tuple(e.path for e in layers)
    rows = [
        (i, u, top[0], top[-1])
        for i, e in enumerate(layers)
        for u, unit in enumerate(survey[e.path])
        for top in unit["top"][:2]
    ]
    run = functools.partial(measure.feeding, made.net, paths, made.preprocess, *made.model)
    sums: dict[tuple[int, int], dict[int, np.ndarray]] = {}
    for chosen, own in _batches(len(rows), batch_size):
        layer, unit, image, position = np.array([rows[i] for i in chosen]).T
        channel = np.array([layers[i].units[u] for i, u in zip(layer, unit, strict=True)])
        found = run(made.floats(image), layer, channel, position)
        parts = [np.asarray(found[path]) for path in paths]
        for at, number in enumerate(chosen[:own]):
            i, u = rows[number][:2]
            earlier = next((j for j in range(i - 1, -1, -1) if parts[j][at].any()), None)
            if earlier is not None:
                by_layer = sums.setdefault((i, u), {})
                by_layer[earlier] = by_layer.get(earlier, 0) + parts[earlier][at]
        tick(1, "connections")
    result: dict[str, Any] = {e.path: [[] for _ in e.units] for e in layers}
    for (i, u), by_layer in sums.items():
        earlier = max(by_layer)
        values = by_layer[earlier]
        share = values / (np.abs(values).sum() or 1)
        order = np.argsort(-np.abs(share), kind="stable")[:_FEEDS]
        result[paths[i]][u] = [[earlier, int(c), round(float(share[c]), 4)] for c in order if share[c]]
    return result


# Dark violet, red, orange, yellow: as bright as they are strong.
_COLORS = np.array([[0, 0, 20], [90, 20, 110], [190, 55, 85], [245, 135, 25], [250, 250, 160]]) / 255


def _colored(heat: np.ndarray) -> np.ndarray:
    """Returns a map in [0, 1] as colors with transparency."""
    at = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(heat, at, _COLORS[:, i]) for i in range(3)]
    return np.stack([*channels, 0.8 * np.sqrt(np.clip(heat, 0, 1))], -1)


def responses(
    made: Explorer, layers: list[Explored], shown: int, names: Sequence[str] | None, folder: Folder, tick: Tick
) -> list[Any]:
    """Writes maps of the responses to images, and returns the scores and most active units of each."""
    units = {e.path: np.array(e.units) for e in layers}
    size = (_HEAT, _HEAT)
    run = functools.partial(measure.responses, made.net, tuple(units), made.preprocess, size, *made.model, units)
    result = []
    for i in range(shown):
        y, found = run(made.floats([i]))
        tiles = [np.stack([np.asarray(m)[0] for m in found[e.path][:2]]) for e in layers]
        column = np.concatenate([np.concatenate([_colored(m) for m in pair], axis=1) for pair in tiles])
        entry: dict[str, Any] = {"heat": folder.write_image(f"images/{i}-maps", column, lossless=True), "units": []}
        for e in layers:
            most = np.asarray(found[e.path][2])[0]
            entry["units"].append([[e.units[u], float(most[u])] for u in np.argsort(-most, kind="stable")[:6]])
        if getattr(y, "ndim", 0) == 2:
            scores = np.asarray(y, np.float64)[0]
            best = np.argsort(-scores, kind="stable")[:5]
            entry["scores"] = [[int(c), names[c] if names else f"class {c}", float(scores[c])] for c in best]
        result.append(entry)
        tick(1, "responses")
    return result


def sides_of(made: Explorer, layers: list[Explored], size: int) -> dict[str, tuple[int, int]]:
    """Returns the sizes of preferred inputs: squares, or the images' size where the network accepts no other."""
    height, width, channels = made.images.shape[1:]

    def accepted(side: int) -> bool:
        x = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
        try:
            jax.eval_shape(lambda x: made.net.apply(*made.model, made.preprocess(x) if made.preprocess else x), x)
        except (ValueError, TypeError):
            return False
        return True

    sides = {e.path: plan.side_for(e.row, size, _SMALL) for e in layers}
    squares = {side for side in sides.values() if side < max(height, width) and accepted(side)}
    return {path: (side, side) if side in squares else (height, width) for path, side in sides.items()}


def preferred(
    made: Explorer,
    layers: list[Explored],
    sides: dict[str, tuple[int, int]],
    steps: int,
    batch_size: int,
    key: KeyLike | None,
    folder: Folder,
    tick: Tick,
) -> dict[str, list[Any]]:
    """Writes the preferred input of each unit, and returns the file names, and None for units that do not fire.

    All layers with images of one size share a compiled step: a layer that an image is not about has the channel -1.
    """
    result: dict[str, list[Any]] = {}
    for number, e in enumerate(layers):
        together = [other.path for other in layers if sides[other.path] == sides[e.path]]
        files: list[Any] = []
        for start in range(0, len(e.units), batch_size):
            part = f"parts/preferred-{number}-{start}.json"
            if not folder.has(part):
                chunk = e.units[start : start + batch_size]
                filled = [chunk[i % len(chunk)] for i in range(batch_size)]
                wanted = [
                    objectives.channel(path, filled if path == e.path else [-1] * batch_size) for path in together
                ]
                images, silent = _ascended(made, wanted, batch_size, sides[e.path], steps, key)
                # The border of an image is outside of most random views.
                rim = min(sides[e.path]) // 8
                folder.write_json(
                    part,
                    [
                        None
                        if i in silent
                        else folder.write_image(
                            f"units/{number}-{c}", images[i][rim:-rim, rim:-rim] if rim else images[i]
                        )
                        for i, c in enumerate(chunk)
                    ],
                )
            tick(steps, f"preferred inputs, {e.path}")
            files += folder.read_json(part)
        result[e.path] = files
    return result


def _ascended(
    made: Explorer, wanted: list[Any], count: int, side: tuple[int, int], steps: int, key: KeyLike | None
) -> tuple[np.ndarray, set[int]]:
    """Returns the images that maximize the objectives, and the numbers of those whose unit does not fire."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        images, _ = maximize(
            made.net,
            *made.model,
            (count, *side, made.images.shape[-1]),
            wanted,
            key=random_key(key),
            steps=steps,
            preprocess=made.preprocess,
            parameterization=Parameterization(),
            view=View(jitter=max(1, min(side) // 8), degrees=10, zoom=0.1, blur=0.4),
        )
    silent: set[int] = set()
    for warning in caught:
        text = str(warning.message)
        if text.startswith("maximize: the gradient of the score is zero"):
            silent |= {int(number) for number in re.findall(r"image (\d+),", text)}
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return np.asarray(images), silent
