"""Files of KataGo's networks: ``.bin``, ``.bin.gz``, ``.txt`` and ``.txt.gz``.

A file is a sequence of words and numbers in ASCII, separated by white space. After the numbers of a layer, its arrays
follow: each is ``@BIN@`` and little-endian float32, or in a text file decimal numbers. The file names the type of each
block and has all sizes, so the network is made of the file alone.
"""

import os
import zlib
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compose.structure import Many
from jaxconv.geometry import IntOrTuple
from jaxconv.layer import Layer, Params, State
from jaxconv.layers import BatchNorm, Conv, Dense, Fn
from jaxconv.models.katago import (
    FEATURES,
    NORM,
    PLANES,
    VERSIONS,
    Block,
    BoardPool,
    ConvPool,
    KataGo,
    NormActConv,
    PolicyHead,
    Scales,
    Stack,
    ValueHead,
    mish,
)
from jaxconv.tree import walk
from jaxconv.weights.errors import StrPath, WeightsError, refusing

L = TypeVar("L", bound=Layer, covariant=True)
M = TypeVar("M", bound=Many)
MARK = b"@BIN@"
ACTIVATIONS: dict[str, Callable] = {"ACTIVATION_RELU": jax.nn.relu, "ACTIVATION_MISH": mish}
# Weights compress badly; a file that grows more than this is not a network.
LARGEST_RATIO = 100
MOST_CHANNELS, MOST_BLOCKS = 1 << 14, 1 << 10


class Part(NamedTuple, Generic[L]):
    """A layer, or a composite, with its arrays."""

    layer: L
    params: Params
    state: State


class _Words:
    """The contents of a file, read from the start to the end."""

    def __init__(self, content: bytes):
        self.content, self.at, self.layer = content, 0, "its first line"

    def fail(self, text: str) -> WeightsError:
        return WeightsError(f"{self.layer}: {text}")

    def word(self, what: str) -> str:
        start = self.at
        while self.content[start : start + 1].isspace():
            start += 1
        end = start
        # The longest word is a name.
        while end < min(len(self.content), start + 1000) and not self.content[end : end + 1].isspace():
            end += 1
        # A word that ends with the file may be cut: arrays come last.
        if end == len(self.content):
            raise self.fail(f"{what} must follow, got the end of the file")
        self.at = end
        return self.content[start:end].decode("ascii", "backslashreplace")

    def number(self, what: str) -> float:
        word = self.word(what)
        try:
            value = float(word)
        except ValueError:
            value = np.nan
        if not np.isfinite(value):
            raise self.fail(f"{what} must be a number, got {word[:40]!r}")
        return value

    def integer(self, what: str, least: int = 1, most: int = MOST_CHANNELS) -> int:
        value = self.number(what)
        if value != int(value) or not least <= value <= most:
            raise self.fail(f"{what} must be an integer from {least} to {most}, got {value:g}")
        return int(value)

    def named(self, what: str) -> None:
        """Reads the name of the next layer, which errors then show."""
        self.layer = self.word(f"the name of {what}")

    def array(self, *shape: int) -> np.ndarray:
        start, count = self.at, int(np.prod(shape))
        while self.content[start : start + 1].isspace():
            start += 1
        if self.content[start : start + len(MARK)] == MARK:
            start += len(MARK)
            found = min(count, (len(self.content) - start) // 4)
            values = np.frombuffer(self.content, "<f4", found, start)
            self.at = start + 4 * found
        else:
            words = self.content[start : start + 64 * count].split(maxsplit=count)
            rest = len(words[count]) if len(words) > count else 0
            cut = len(words) == count and start + 64 * count >= len(self.content) and not self.content[-1:].isspace()
            found = min(count, len(words)) - cut
            try:
                values = np.array([float(word) for word in words[:count]], np.float32)
            except ValueError:
                raise self.fail(f"{count:,} numbers must follow, got {self.content[start : start + 20]!r}") from None
            self.at = min(start + 64 * count, len(self.content)) - rest
        if found < count:
            raise self.fail(f"{count:,} numbers must follow, got {found:,} and the end of the file")
        if not np.isfinite(values).all():
            raise self.fail(f"its {count:,} numbers must be finite, got {values[~np.isfinite(values)][0]}")
        return values.reshape(shape).astype(np.float32)


def _joined(kind: type[M], **parts: Part) -> Part[M]:
    """Returns a composite of named parts; parts without arrays have no entry in params and state."""
    params = {name: part.params for name, part in parts.items() if part.params}
    state = {name: part.state for name, part in parts.items() if part.state}
    return Part(kind(tuple((name, part.layer) for name, part in parts.items())), params, state)


def _plain(layer: Layer) -> Part:
    return Part(layer, {}, {})


class _Reader:
    """Reads layers in the order of the file; a method a type of layer."""

    def __init__(self, words: _Words, version: int):
        self.words, self.version = words, version

    def conv(self, channels: int | None = None) -> Part[Conv]:
        words = self.words
        words.named("a convolution")
        window = words.integer("the window's height", most=99), words.integer("the window's width", most=99)
        inputs, outputs = words.integer("input channels"), words.integer("output channels")
        dilation = words.integer("dilation", most=99), words.integer("dilation", most=99)
        self.expect(channels, inputs)
        layer = Conv(outputs, _square(window), dilation=_square(dilation), bias=False)
        return Part(layer, {"kernel": words.array(*window, inputs, outputs)}, {})

    def expect(self, channels: int | None, inputs: int) -> None:
        if channels is not None and inputs != channels:
            raise self.words.fail(f"it must take {channels} channels, got {inputs}")

    def norm(self, channels: int) -> Part[BatchNorm]:
        words = self.words
        words.named("a norm")
        self.expect(channels, words.integer("channels"))
        eps = words.number("epsilon")
        scale, bias = words.integer("has scale", 0, 1), words.integer("has bias", 0, 1)
        if not bias:
            raise words.fail("a norm must have a bias, got none")
        mean, var = words.array(channels), words.array(channels)
        if eps < 0 or not (var + np.float32(eps) > 0).all():
            raise words.fail("its variances must be positive, got 0 or less")
        params = {"scale": words.array(channels)} if scale else {}
        params["bias"] = words.array(channels)
        # The network's norms have one epsilon, so that of the file is in the variance.
        var = np.float32(np.float64(var) + eps - NORM.eps)
        return Part(BatchNorm(eps=NORM.eps, scale=bool(scale)), params, {"mean": mean, "var": var})

    def act(self) -> Part:
        words = self.words
        words.named("an activation")
        kind = words.word("its type") if self.version >= 11 else "ACTIVATION_RELU"
        if kind == "ACTIVATION_IDENTITY":
            return _plain(Fn(_identity))
        if kind not in ACTIVATIONS:
            raise words.fail(f"its type must be one of {', '.join(ACTIVATIONS)}, got {kind[:40]!r}")
        return _plain(Fn(ACTIVATIONS[kind]))

    def dense(self, channels: int, bias: bool = False) -> Part[Dense]:
        words = self.words
        words.named("a matrix")
        inputs, outputs = words.integer("input channels"), words.integer("output channels")
        self.expect(channels, inputs)
        params = {"kernel": words.array(inputs, outputs)}
        if bias:
            words.named("a bias")
            self.expect(outputs, words.integer("channels"))
            params["bias"] = words.array(outputs)
        return Part(Dense(outputs, bias=bias), params, {})

    def norm_act_conv(self, channels: int, pooled: bool = False) -> Part[NormActConv]:
        norm, act, conv = self.norm(channels), self.act(), self.conv(channels)
        if not pooled:
            return _joined(NormActConv, norm=norm, act=act, conv=conv)
        conv1g = self.conv(channels)
        normg, actg = self.norm(conv1g.layer.features), self.act()
        linear_g = self.dense(3 * conv1g.layer.features)
        pool = _joined(
            ConvPool, conv1r=conv, conv1g=conv1g, normg=normg, actg=actg, gpool=_plain(BoardPool()), linear_g=linear_g
        )
        return _joined(NormActConv, norm=norm, act=act, convpool=pool)

    def blocks(self, count: int, channels: int) -> Part[Stack]:
        return _joined(Stack, **{str(i): self.block(channels) for i in range(count)})

    def block(self, channels: int) -> Part[Block]:
        words = self.words
        kind = words.word("the type of a block")
        if kind not in ("ordinary_block", "gpool_block", "nested_bottleneck_block"):
            raise words.fail(
                f"after it must come ordinary_block, gpool_block or nested_bottleneck_block, got {kind[:40]!r}"
            )
        words.named("a block")
        if kind == "nested_bottleneck_block":
            inner = words.integer("the number of its blocks", most=MOST_BLOCKS)
            first = self.norm_act_conv(channels)
            middle = _features(first)
            parts: dict[str, Part] = {"normactconvp": first, "blockstack": self.blocks(inner, middle)}
            parts["normactconvq"] = self.norm_act_conv(middle)
        else:
            first = self.norm_act_conv(channels, kind == "gpool_block")
            parts = {"normactconv1": first, "normactconv2": self.norm_act_conv(_features(first))}
        last = list(parts.values())[-1]
        if _features(last) != channels:
            raise words.fail(f"it must return the {channels} channels of its block, got {_features(last)}")
        return _joined(Block, **parts)

    def policy_head(self, channels: int) -> Part[PolicyHead]:
        self.words.named("the policy head")
        conv1p, conv1g = self.conv(channels), self.conv(channels)
        features, pooled = conv1p.layer.features, conv1g.layer.features
        parts: dict[str, Part] = {"conv1p": conv1p, "conv1g": conv1g, "biasg": self.norm(pooled), "actg": self.act()}
        parts |= {"gpool": _plain(BoardPool()), "linear_g": self.dense(3 * pooled)}
        parts |= {"bias2": self.norm(features), "act2": self.act(), "conv2p": self.conv(features)}
        return _joined(PolicyHead, **parts, linear_pass=self.dense(3 * pooled))

    def value_head(self, channels: int) -> Part[ValueHead]:
        self.words.named("the value head")
        conv1 = self.conv(channels)
        features = conv1.layer.features
        parts: dict[str, Part] = {"conv1": conv1, "bias1": self.norm(features), "act1": self.act()}
        linear2 = self.dense(3 * features, bias=True)
        hidden = linear2.layer.features
        parts |= {"gpool": _plain(BoardPool(largest=False)), "linear2": linear2, "act2": self.act()}
        parts |= {"linear_valuehead": self.dense(hidden, bias=True)}
        parts |= {"linear_miscvaluehead": self.dense(hidden, bias=True), "conv_ownership": self.conv(features)}
        return _joined(ValueHead, **parts)


def _square(pair: tuple[int, int]) -> IntOrTuple:
    return pair[0] if pair[0] == pair[1] else pair


def _identity(x: jax.Array) -> jax.Array:
    return x


def _features(part: Part[NormActConv]) -> int:
    """Returns the output channels of a `NormActConv`."""
    return next(layer.features for _, layer in walk(part.layer) if isinstance(layer, Conv))


def _content(path: FilePath) -> bytes:
    """Returns a file, decompressed if it is compressed by gzip."""
    content = path.read_bytes()
    if content[:2] != b"\x1f\x8b":
        return content
    most = LARGEST_RATIO * len(content) + 2**20
    gzip = zlib.decompressobj(wbits=31)
    plain = gzip.decompress(content, most)
    if gzip.unconsumed_tail:
        raise WeightsError(f"it must be a network, got more than {most} bytes from a file of {len(content)}")
    if not gzip.eof:
        raise WeightsError("its gzip stream must be complete, got the end of the file before")
    return plain


def from_katago(source: StrPath) -> tuple[KataGo, Params, State]:
    """Returns ``(net, params, state)`` of a file of KataGo: ``.bin``, ``.txt``, or one of them compressed by gzip.

    The network is that of the file: `jaxconv.models.katago` with its numbers of blocks and channels. Versions 8 to 14
    of the format are read, with ordinary, global pooling and nested bottleneck blocks. The arrays are float32.

    Args:
      source: the path of the file.

    Raises:
      OSError: the file cannot be opened.
      WeightsError: the file is truncated, of another version or another format, a number is not finite, or the sizes of
        layers do not fit each other. The message names the layer.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "net.bin")
    ...     _ = path.write_text("a-network 3 22 19")
    ...     try:
    ...         from_katago(path)
    ...     except WeightsError as error:
    ...         print(str(error).removeprefix(f"{path}: "))
    a-network: the model version must be between 8 and 14, got 3
    """
    path = FilePath(os.fspath(source))
    with refusing(path):
        words = _Words(_content(path))
        words.named("the network")
        version = words.integer("the model version", 0, 10_000)
        if version not in VERSIONS:
            raise words.fail(f"the model version must be between {VERSIONS[0]} and {VERSIONS[-1]}, got {version}")
        inputs = words.integer("planes"), words.integer("global features")
        if inputs != (PLANES, FEATURES):
            raise words.fail(f"it must take {PLANES} planes and {FEATURES} global features, got {inputs}")
        scales = Scales(*(words.number("a multiplier") for _ in Scales())) if version >= 13 else Scales()
        words.named("the trunk")
        count = words.integer("the number of blocks", most=MOST_BLOCKS)
        width = words.integer("channels of the trunk")
        for what in ("middle", "regular", "dilated", "pooled"):  # as the layers have them
            words.integer(f"{what} channels", least=0)
        reader = _Reader(words, version)
        conv_spatial, linear_global = reader.conv(PLANES), reader.dense(FEATURES)
        first: tuple[Conv | Dense, ...] = (conv_spatial.layer, linear_global.layer)
        for layer in first:
            if layer.features != width:
                raise words.fail(f"the trunk must have {width} channels, got {layer}")
        whole = _joined(
            KataGo,
            conv_spatial=conv_spatial,
            linear_global=linear_global,
            blocks=reader.blocks(count, width),
            norm_trunkfinal=reader.norm(width),
            act_trunkfinal=reader.act(),
            policy_head=reader.policy_head(width),
            value_head=reader.value_head(width),
        )
        _check_heads(words, whole, version)
        if words.content[words.at :].strip():
            raise words.fail("the file must end after it, got more")
    net = KataGo(whole.layer.children, version, scales)
    return net, *jax.tree.map(jnp.asarray, (whole.params, whole.state))


def _check_heads(words: _Words, whole: Part[KataGo], version: int) -> None:
    policy, value = whole.params["policy_head"], whole.params["value_head"]
    policies, scores = (2 if version >= 12 else 1), (6 if version >= 9 else 4)
    found = {
        "policy": (policy["conv2p"]["kernel"], policies),
        "pass": (policy["linear_pass"]["kernel"], policies),
        "value": (value["linear_valuehead"]["kernel"], 3),
        "score": (value["linear_miscvaluehead"]["kernel"], scores),
        "ownership": (value["conv_ownership"]["kernel"], 1),
    }
    for name, (kernel, wanted) in found.items():
        if kernel.shape[-1] != wanted:
            raise words.fail(f"{name} must have {wanted} outputs in version {version}, got {kernel.shape[-1]}")


__all__ = ["from_katago"]
