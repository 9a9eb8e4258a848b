"""The classic ConvNet of CS231n, lecture 5: ``[(CONV-RELU)*N-POOL]*M-(FC-RELU)*K`` and scores.

Batch norm: Ioffe and Szegedy, 2015. Dropout: Srivastava et al., 2014.
"""

import re
from collections.abc import Sequence

import jax

from jaxconv.compose import serial
from jaxconv.errors import ArgumentError
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool


def convnet(
    classes: int = 10,
    *,
    widths: Sequence[int] = (32, 64, 128),
    convs: int = 1,
    window: int = 3,
    hidden: Sequence[int] = (),
    norm: bool = True,
    dropout: float = 0.0,
) -> Layer:
    """Returns M blocks of N convolutions and a pool, K hidden fully connected layers, and the scores.

    Args:
      classes: the number of classes.
      widths: the filters of each block's convolutions, of length M.
      convs: N, the convolutions in a block.
      window: the convolutions' window.
      hidden: the widths of the hidden fully connected layers, of length K.
      norm: whether to add batch norm between each convolution and its ReLU.
      dropout: the dropout rate before each fully connected layer, the scores included; 0 adds no layer.

    Raises:
      ArgumentError: classes is a spec, the argument of `convnet_from_spec`.

    >>> net = convnet(widths=(8, 16), hidden=(32,))
    >>> [name for name, _ in net.children]
    ['block1', 'block2', 'flatten', 'fc1', 'relu1', 'scores']
    """
    if isinstance(classes, str):
        raise ArgumentError(f"classes must be an integer, got {classes!r}: for a spec there is convnet_from_spec")
    layers: dict[str, LayerLike] = {}
    for m, width in enumerate(widths, 1):
        block: dict[str, LayerLike] = {}
        for n in range(1, convs + 1):
            block[f"conv{n}"] = Conv(width, window, bias=not norm)
            if norm:
                block[f"bn{n}"] = BatchNorm()
            block[f"relu{n}"] = jax.nn.relu
        layers[f"block{m}"] = serial(**block, pool=MaxPool(2))
    layers["flatten"] = Flatten(channels_first=True)
    for k, width in enumerate(hidden, 1):
        if dropout:
            layers[f"dropout{k}"] = Dropout(dropout)
        layers |= {f"fc{k}": Dense(width), f"relu{k}": jax.nn.relu}
    if dropout:
        layers["dropout"] = Dropout(dropout)
    return serial(**layers, scores=Dense(classes))


Words = list[tuple[str, int | None]]
CLOSING = {"(": ")", "[": "]"}
DEEPEST = 100


def _row(tokens: list[str], end: str = "", depth: int = 0) -> Words:
    """Parses ``item-item-...`` and its end from the tokens; an item is a word or a row in brackets, maybe ``*n``."""
    if depth > DEEPEST:
        raise ArgumentError(f"spec must have brackets nested at most {DEEPEST} deep, got more")
    words: Words = []
    while True:
        token = tokens.pop(0)
        if token in CLOSING:
            item = _row(tokens, CLOSING[token], depth + 1)
        elif token.isalpha():
            item = [(token, int(tokens.pop(0)) if tokens[0].isdecimal() else None)]
        else:
            raise _malformed(token, tokens)
        if tokens[0] == "*":
            if not tokens[1].isdecimal():
                raise _malformed(tokens[0], tokens[1:])
            item = item * int(tokens[1])
            del tokens[:2]
        words += item
        token = tokens.pop(0)
        if token == end:
            return words
        if token != "-":
            raise _malformed(token, tokens)


def _malformed(token: str, tokens: list[str]) -> ArgumentError:
    rest = "".join((token, *tokens))
    return ArgumentError(
        "spec must be layers with '-' between them, in brackets that close, with a number after each '*', got "
        f"{f'{rest!r} where that does not fit' if rest else 'an early end'}"
    )


def convnet_from_spec(spec: str, classes: int = 10, *, width: int = 32, hidden: int = 128, window: int = 3) -> Layer:
    """Returns the network that a spec in the lecture's notation describes, and adds a layer of scores.

    The layers are named by position, and the last layer is named scores. The input of the first ``FC`` is flattened.

    Args:
      spec: ``CONV``, ``NORM`` (batch norm), ``RELU``, ``POOL`` and ``FC`` with ``-`` between them, sequences in round
        or square brackets, and ``*n`` for n repetitions. A number after ``CONV`` is the number of filters, after ``FC``
        the outputs, after ``POOL`` the window: ``"CONV64-RELU-POOL2-FC100-RELU"``. A ``SOFTMAX`` at the end, after
        ``-`` or ``,``, is the layer of scores.
      classes: the number of classes.
      width: filters of convolutions without a number; each pool doubles them.
      hidden: outputs of fully connected layers without a number.
      window: the convolutions' window.

    Raises:
      ArgumentError: the spec is malformed, or has a convolution or a pool after a fully connected layer.

    >>> net = convnet_from_spec("[(CONV-RELU)*2-POOL]*3-(FC-RELU)*1")
    >>> [layer.features for _, layer in net.children if isinstance(layer, jc.Conv)]
    [32, 32, 64, 64, 128, 128]
    """
    if re.search(r"[A-Za-z]\?", spec):
        raise ArgumentError(
            f"spec must have no optional layers, got {spec!r}: write POOL in place of POOL?, or omit it"
        )
    spec = re.sub(r"\s*[-,]\s*SOFTMAX\s*$", "", spec)
    words = _row([*re.findall(r"[A-Za-z]+|\d+|\S", spec), "", ""])
    layers: list[LayerLike] = []
    flat = False
    for word, number in words:
        if word in ("CONV", "POOL") and flat:
            raise ArgumentError(f"spec must have its fully connected layers last, got {word} after FC")
        if word == "FC" and not flat:
            layers.append(Flatten(channels_first=True))
            flat = True
        if word == "CONV":
            layers.append(Conv(width if number is None else number, window))
        elif word == "POOL":
            layers.append(MaxPool(2 if number is None else number))
            width *= 2
        elif word == "FC":
            layers.append(Dense(hidden if number is None else number))
        elif word in ("RELU", "NORM") and number is None:
            layers.append(jax.nn.relu if word == "RELU" else BatchNorm())
        else:
            raise ArgumentError(
                f"spec must consist of CONV, NORM, RELU, POOL and FC, got {word}{'' if number is None else number}"
            )
    return serial(*layers, *([] if flat else [Flatten(channels_first=True)]), scores=Dense(classes))


__all__ = ["convnet", "convnet_from_spec"]
