"""Classifies galaxies by shape: simulated with galsim, or the photographs of Galaxy10.

    python -m experiments.galaxies --out runs/galaxies
    python -m experiments.galaxies --galaxy10 Galaxy10_DECals.h5 --out runs/galaxy10
    python -m experiments.galaxies --weights runs/galaxies/weights.safetensors --image galaxy.png

The galaxies are simulated by PyPI's galsim (Rowe et al., 2015): Sersic bulges and exponential disks, spiral arms with
knots, disks seen from the edge, and pairs that merge, blurred by a Moffat point spread function, with neighbors and
noise. For show, the network also classifies the largest objects of a real photograph, the Hubble deep field of
scikit-image, which has no labels. --galaxy10 trains on and tests with real photographs, which this command does not
download.

Prints the test accuracy: 98% of 600 simulated galaxies, after 36 s of processor time on two cores of an AMD EPYC
(AVX-512), on which other programs ran too. This accuracy says nothing about real galaxies. Writes weights.safetensors,
metrics.json, the figures (Grad-CAM of spirals among them) and report.html under --out.
"""

import argparse
import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments import recognize, report
from experiments.images import central_crop
from experiments.optional import Image, figures, jaxconv_train, needed, tqdm
from experiments.pictures import photograph, pictures
from jaxconv.data import Dataset

SIZE = 64
HUBBLE = "hubble_deep_field.jpg"
# Red, green and blue of old and of young stars.
OLD, YOUNG = np.array([1.25, 1.0, 0.7]), np.array([0.75, 0.95, 1.25])
Random = np.random.Generator
# A component of a galaxy: its profile and its color.
Light = tuple[Any, np.ndarray]


def galsim() -> Any:
    """Returns the package galsim.

    Raises:
      ModuleNotFoundError: galsim is not installed.
    """
    try:
        return importlib.import_module("galsim")
    except ImportError as error:
        message = "galaxies are simulated by the package galsim, which is not installed: pip install galsim"
        raise ModuleNotFoundError(message, name="galsim") from error


def _inclined(random: Random, profile: Any, least: float) -> Any:
    """Returns a profile with a random ratio of its axes, at least ``least``, in a random direction."""
    return profile.shear(q=random.uniform(least, 1.0), beta=random.uniform(0, math.pi) * galsim().radians)


def elliptical(random: Random, scale: float) -> list[Light]:
    profile = galsim().Sersic(random.choice((2.0, 3.0, 4.0)), half_light_radius=random.uniform(0.5, 0.9) * scale)
    return [(_inclined(random, profile, 0.4), OLD * random.uniform(0.9, 1.1, 3))]


def edge_on(random: Random, scale: float) -> list[Light]:
    lib = galsim()
    angle = random.uniform(0, math.pi) * lib.radians
    tilt = random.uniform(80, 90) * lib.degrees
    disk = lib.InclinedExponential(tilt, half_light_radius=1.3 * scale, scale_h_over_r=random.uniform(0.06, 0.14))
    bulge = lib.Sersic(3.0, half_light_radius=0.25 * scale, flux=random.uniform(0, 0.35))
    young = random.uniform(0.2, 0.8)
    return [(disk.rotate(angle), young * YOUNG + (1 - young) * OLD), (bulge.rotate(angle), OLD)]


def spiral(random: Random, scale: float) -> list[Light]:
    lib = galsim()
    # The pattern of the arms, seen from above: bright along logarithmic spirals, as far as the disk reaches.
    n, arms, pitch = 65, int(random.integers(2, 4)), math.radians(random.uniform(14, 28))
    y, x = np.mgrid[:n, :n] - n // 2 + 1e-3
    radius, angle = np.hypot(x, y) / (0.16 * n), np.arctan2(y, x)
    wave = np.cos(arms * (angle - random.choice([-1, 1]) * np.log(radius) / math.tan(pitch)))
    pattern = np.exp(-radius) * np.minimum(radius, 1) * ((1 + wave) / 2) ** random.uniform(2, 4)
    winding = lib.InterpolatedImage(lib.Image(pattern.astype(np.float32)), scale=3.6 * scale / n, flux=1.0)
    disk = lib.Exponential(half_light_radius=1.1 * scale, flux=random.uniform(0.3, 1.0))
    stars, count = disk.withFlux(random.uniform(0.05, 0.2)), int(random.integers(8, 25))
    knots = lib.RandomKnots(count, profile=stars, rng=lib.BaseDeviate(int(random.integers(1, 2**31))))
    bulge = lib.Sersic(2.5, half_light_radius=0.25 * scale, flux=random.uniform(0.15, 0.5))
    q, beta = random.uniform(0.55, 1.0), random.uniform(0, math.pi) * lib.radians
    lights = [(disk, 0.5 * (OLD + YOUNG)), (winding, YOUNG), (knots, YOUNG), (bulge, OLD)]
    return [(profile.shear(q=q, beta=beta), color) for profile, color in lights]


def merging(random: Random, scale: float) -> list[Light]:
    lib = galsim()
    apart, direction = random.uniform(0.9, 2.4) * scale, random.uniform(0, 2 * math.pi)
    step = apart / 2 * np.array([math.cos(direction), math.sin(direction)])
    lights: list[Light] = []
    for sign, share in ((1, 1.0), (-1, random.uniform(0.4, 1.0))):
        disk = _inclined(random, lib.Exponential(half_light_radius=random.uniform(0.5, 0.8) * scale, flux=share), 0.4)
        bulge = lib.Sersic(2.5, half_light_radius=0.2 * scale, flux=0.4 * share)
        # A tail: stars along an arc that begins at the galaxy and bends away from the other.
        bend, reach = random.choice([-1, 1]) * random.uniform(0.6, 1.2), random.uniform(1.2, 2.2) * scale
        arc = [
            reach * t * np.array([math.cos(direction + bend * t + 0.6), math.sin(direction + bend * t + 0.6)])
            for t in np.linspace(0.2, 1, 7)
        ]
        star = lib.Gaussian(half_light_radius=0.22 * scale, flux=0.05 * share)
        tail = lib.Add([star.shift(*map(float, sign * point)) for point in arc])
        young = random.uniform(0, 1)
        colors = (young * YOUNG + (1 - young) * OLD, OLD, YOUNG)
        lights += [
            (profile.shift(*map(float, sign * step)), color)
            for profile, color in zip((disk, bulge, tail), colors, strict=True)
        ]
    return lights


SHAPES: dict[str, Callable[[Random, float], list[Light]]] = {
    "elliptical": elliptical,
    "spiral": spiral,
    "edge-on": edge_on,
    "merging": merging,
}


def simulated(kind: str, seed: Sequence[int], size: int = SIZE) -> np.ndarray:
    """Returns a photograph of a galaxy, ``(size, size, 3)`` uint8.

    Args:
      kind: one of `SHAPES`.
      seed: the image is a function of it.
      size: height and width.
    """
    lib, random = galsim(), np.random.default_rng(seed)
    lights = SHAPES[kind](random, size * random.uniform(0.06, 0.17))
    center = random.uniform(-0.04, 0.04, 2) * size
    lights = [(profile.shift(*map(float, center)), color) for profile, color in lights]
    # Small neighbors, as in deep fields.
    for _ in range(random.poisson(1.2)):
        position = random.uniform(-0.48, 0.48, 2) * size
        small = lib.Gaussian(half_light_radius=random.uniform(0.5, 1.8), flux=random.uniform(0.01, 0.06))
        lights.append((small.shift(*map(float, position)), random.uniform(0.6, 1.3, 3)))
    blur = lib.Moffat(beta=random.uniform(2.5, 4.5), fwhm=random.uniform(1.6, 4.5))
    # More than enough for eight bits, and several times faster than the defaults.
    accuracy = lib.GSParams(folding_threshold=0.02, maxk_threshold=0.01, kvalue_accuracy=1e-3)
    image = np.zeros((size, size, 3))
    for profile, color in lights:
        drawn = lib.Convolve(profile, blur, gsparams=accuracy).drawImage(nx=size, ny=size, scale=1.0, dtype=float)
        image += drawn.array[..., None] * color
    # The middle is as bright as the camera can show; asinh keeps the faint parts visible.
    image = image / np.quantile(image.mean(-1), 0.995) * random.uniform(0.7, 1.4) * random.uniform(0.75, 1.3, 3)
    image += random.normal(0, random.uniform(0.004, 0.06), image.shape)
    soft = random.uniform(4, 15)
    shown = np.arcsinh(soft * np.maximum(image, 0)) / math.asinh(soft) + random.uniform(0, 0.06)
    return np.clip(np.round(255 * shown), 0, 255).astype(np.uint8)


def galaxies(count: int, seed: int, *, quiet: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Returns simulated galaxies, ``(count, 64, 64, 3)`` uint8, and their labels; the shapes alternate."""
    kinds, labels = list(SHAPES), np.arange(count, dtype=np.int32) % len(SHAPES)
    numbered = tqdm(enumerate(labels), "simulating", total=count, disable=quiet)
    return np.stack([simulated(kinds[label], (seed, i)) for i, label in numbered]), labels


def largest(image: np.ndarray, count: int = 12, least: int = 16) -> list[np.ndarray]:
    """Returns squares around the largest bright objects of a photograph, largest first.

    Args:
      image: ``(height, width, 3)`` uint8.
      count: the number of squares, or fewer if there are fewer objects.
      least: the least height or width of an object, in pixels.
    """
    gray = image.mean(-1)
    parts = jc.instances.connected_components(gray > gray.mean() + 2 * gray.std())
    boxes = []
    for number in np.argsort(-np.bincount(parts.ravel())[1:], kind="stable")[: 8 * count] + 1:
        rows, columns = np.nonzero(parts == number)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        side = int(1.7 * max(bottom - top, right - left))
        y, x = (top + bottom - side) // 2, (left + right - side) // 2
        if side >= 1.7 * least and y >= 0 and x >= 0 and y + side <= image.shape[0] and x + side <= image.shape[1]:
            boxes.append(image[y : y + side, x : x + side])
    return boxes[:count]


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Rotates, mirrors, scales and shifts: a galaxy has no upper side."""
    position, color = jax.random.split(key)
    draws = jc.data.draw_affine(position, images.shape, rotate=180, scale=0.15, shift=0.05, flip=True)
    return jc.data.warp(jc.data.color_jitter(color, images, brightness=0.2, saturation=0.3), draws)


def shown(model: recognize.Recognizer, data: Dataset) -> list[recognize.Part]:
    """Returns the parts of the report that only galaxies have."""
    parts = [recognize.examples(data, "galaxies")]
    spirals = [i for i, name in enumerate(data.classes) if "spiral" in name and "no spiral" not in name]
    those = np.flatnonzero(np.isin(data.test_labels, spirals))[:6]
    if len(those):
        x = recognize.scaled(data.test_images[those])
        target = np.asarray(data.test_labels[those])
        maps = jc.inspect.grad_cam(model.net, model.params, model.state, x, target, path="maps", resize=True)
        picture = figures.heat_maps(data.test_images[those], maps, [data.classes[i] for i in target], columns=6)
        parts.append(("grad_cam", "Grad-CAM of the class spiral", picture))
    try:
        objects = largest(photograph(HUBBLE))
    except FileNotFoundError as error:
        print(f"the Hubble deep field is not shown: {error}")
        return parts
    squares = np.stack([central_crop(image, model.size, 1.0) for image in objects])
    rows = model.probabilities(squares)
    titles = [f"{data.classes[row.argmax()]} {row.max():.0%}" for row in rows]
    picture = figures.images(squares, titles, columns=6)
    parts.append(("hubble", "Objects of the Hubble deep field, which have no labels", picture))
    return parts


def parser() -> argparse.ArgumentParser:
    arguments = recognize.parser("galaxies", __doc__ or "", images=2400, test_images=600, epochs=12, lr=4e-3)
    arguments.add_argument("--galaxy10", type=Path, metavar="FILE", help="the HDF5 file of Galaxy10, SDSS or DECaLS")
    return arguments


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(argv)
    needed(Image, jaxconv_train, figures)
    mine = pictures(options.image, options.folder)
    data = None
    if options.galaxy10:
        data = jc.data.galaxy10(options.galaxy10, size=SIZE, seed=options.seed)
    else:
        galsim()
    net = recognize.network(len(data.classes if data else SHAPES), stem_stride=2)
    known = recognize.loaded(options, net)
    if data is None:
        train, test = (
            galaxies(count, 2 * options.seed + i, quiet=options.quiet)
            for i, count in enumerate((options.images, options.test_images))
        )
        data = Dataset("galaxies", *train, *test, tuple(SHAPES))
    return recognize.run("Galaxies", net, data, options, augment, mine, lambda model: shown(model, data), known)


if __name__ == "__main__":
    report.run(main)
