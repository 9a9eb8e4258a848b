"""Networks of descriptors, trained on a data set: to classify, by pairs, or by triplets, for `experiments.retrieve`."""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxconv as jc
from experiments.classify import MODELS, RECIPES, augmentation, optimizer, smoothed_loss
from jaxconv.data import Dataset, channel_statistics, normalize

# The margin between distances (at most 2) to the same class and to others; the images among which triplets are chosen.
MARGIN, GROUP = 0.3, 16
# The margin of pairs of two classes.
PAIR_MARGIN = 1.0


class Network(NamedTuple):
    """A network with trained and untrained weights, and the layer whose output is the embedding."""

    net: jc.Layer
    weights: dict[str, tuple[Any, Any]]
    preprocess: Any
    path: str
    facts: dict[str, str]


def learned_now(data: Dataset, options: argparse.Namespace, seed: int) -> Network:
    """Returns the network of `experiments.classify`, with trained and with initial weights."""
    net = MODELS["convnet"](len(data.classes))
    mean, std = channel_statistics(data.train_images)
    preprocess = functools.partial(normalize, mean=mean, std=std)
    epochs = options.epochs or (6 if options.data == "mnist5k" else 1)
    fitted = jc.train.fit(
        net,
        data.train_images,
        data.train_labels,
        optimizer(options.lr),
        loss=smoothed_loss,
        epochs=epochs,
        batch_size=options.batch,
        key=seed,
        augment=augmentation(RECIPES[options.data]),
        preprocess=preprocess,
        progress=not options.quiet,
    )
    untrained = net.init(jax.random.key(seed), preprocess(data.train_images[:1]))
    facts = {"network": "convnet", "training": f"epochs: {epochs}, {fitted.train_seconds:.1f} s"}
    return Network(
        net, {"learned": (fitted.params, fitted.state), "untrained": untrained}, preprocess, "flatten", facts
    )


def hardest_triplets(descriptors: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the loss of each image's hardest triplet among GROUP images, or among a batch that has no such groups.

    The hardest triplets of many images are mostly those that people confuse too; a network learns little from them.
    """
    size = GROUP if len(labels) % GROUP == 0 else len(labels)
    groups = descriptors.reshape(-1, size, descriptors.shape[-1]), labels.reshape(-1, size)
    return jax.vmap(functools.partial(jc.losses.triplet_loss, margin=MARGIN))(*groups).reshape(-1)


def pairs(descriptors: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the contrastive losses of two pairs for each image: with one of its class, and with one of another.

    The partners are in the same batch, sorted by class: the next image, and the one after half of the batch. At the
    last image of a class, or where a class has half of the batch, these are pairs of the other type.
    """
    order = jnp.argsort(labels)
    x, y = descriptors[order], labels[order]

    def loss(shift: int) -> jax.Array:
        there = jnp.roll(x, -shift, 0), y == jnp.roll(y, -shift)
        return jc.losses.contrastive_loss(x, *there, margin=PAIR_MARGIN)

    return loss(1) + loss(len(labels) // 2)


# The losses of another epoch, by the row of the result; those of descriptors by the argument too.
FURTHER = {"classification": smoothed_loss, "siamese": pairs, "triplets": hardest_triplets}


def further(
    network: Network, data: Dataset, options: argparse.Namespace, seed: int, name: str
) -> tuple[jc.Layer, Any, Any, str]:
    """Trains the learned network for another epoch, to classify or as a network of descriptors.

    Returns:
      The network, its parameters, its state, and the layer whose output is the embedding.
    """
    net, path = network.net, network.path
    params, state = network.weights["learned"]
    if name != "classification":
        children = dict(net.children)  # type: ignore[attr-defined]
        names = [*children]
        trunk = {child: children[child] for child in names[: names.index(path) + 1]}
        net, path = jc.serial(**trunk, embedding=jc.Dense(64, bias=False), norm=jc.UnitNorm()), "norm"
        fresh, fresh_state = net.init(seed, network.preprocess(data.train_images[:1]))
        params = fresh | {child: params[child] for child in trunk if child in params}
        state = fresh_state | {child: state[child] for child in trunk if child in state}
    fitted = jc.train.fit(
        net,
        data.train_images,
        data.train_labels,
        optimizer(0.4 * options.lr),
        loss=FURTHER[name],
        epochs=1,
        batch_size=options.batch,
        key=seed,
        augment=augmentation(RECIPES[options.data]),
        preprocess=network.preprocess,
        init=(params, state),
        progress=not options.quiet,
    )
    return net, fitted.params, fitted.state, path
