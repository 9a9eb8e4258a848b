"""Small files in KataGo's format with random numbers, and what such a file computes, in NumPy's float64.

`evaluate` reads the file word by word and computes as it goes. It shares no code with jaxconv: it was written from the
description of the format.
"""

import numpy as np

ENDS = {"relu": "ACTIVATION_RELU", "mish": "ACTIVATION_MISH", "identity": "ACTIVATION_IDENTITY"}


class Writer:
    """Writes layers one after the other; the numbers are random, of a size that keeps activations near 1."""

    def __init__(self, version=14, seed=0, binary=True, act="mish"):
        self.version, self.binary, self.act = version, binary, ENDS[act]
        self.random, self.content = np.random.default_rng(seed), bytearray()

    def words(self, *words):
        for word in words:
            self.content += f"{word}\n".encode()

    def array(self, values):
        values = np.asarray(values, "<f4").ravel()
        if self.binary:
            self.content += b"@BIN@" + values.tobytes() + b"\n"
        else:
            self.words(" ".join(map(repr, map(float, values))))

    def normal(self, *shape):
        return self.random.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))

    def conv(self, name, window, inputs, outputs, dilation=1):
        self.words(name, window, window, inputs, outputs, dilation, dilation)
        self.array(self.normal(window, window, inputs, outputs))

    def norm(self, name, channels, eps="1e-20", scale=1):
        self.words(name, channels, eps, scale, 1)
        self.array(self.random.normal(size=channels) * 0.1)
        self.array(self.random.uniform(0.5, 2, channels))
        if scale:
            self.array(self.random.uniform(0.7, 1.3, channels))
        self.array(self.random.normal(size=channels) * 0.2)

    def activation(self, name):
        self.words(name, *([self.act] if self.version >= 11 else []))

    def matrix(self, name, inputs, outputs):
        self.words(name, inputs, outputs)
        self.array(self.normal(inputs, outputs))

    def bias(self, name, channels):
        self.words(name, channels)
        self.array(self.random.normal(size=channels) * 0.2)

    def norm_act_conv(self, name, window, inputs, outputs, pooled=0, **norm):
        self.norm(f"{name}.norm", inputs, **norm)
        self.activation(f"{name}.act")
        if not pooled:
            return self.conv(f"{name}.conv", window, inputs, outputs)
        self.conv(f"{name}.convpool.conv1r", window, inputs, outputs)
        self.conv(f"{name}.convpool.conv1g", window, inputs, pooled)
        self.norm(f"{name}.convpool.normg", pooled)
        self.activation(f"{name}.convpool.actg")
        return self.matrix(f"{name}.convpool.linear_g", 3 * pooled, outputs)

    def block(self, kind, name, channels, middle, pooled):
        if kind == "nested":
            self.words("nested_bottleneck_block", name, 2)
            self.norm_act_conv(f"{name}.normactconvp", 1, channels, middle)
            self.block("pooled", f"{name}.blockstack.0", middle, middle, pooled)
            self.block("ordinary", f"{name}.blockstack.1", middle, middle, pooled)
            self.norm_act_conv(f"{name}.normactconvq", 1, middle, channels)
            return
        inside = middle - pooled if kind == "pooled" else middle
        self.words({"pooled": "gpool_block", "ordinary": "ordinary_block"}[kind], name)
        self.norm_act_conv(f"{name}.normactconv1", 3, channels, inside, pooled if kind == "pooled" else 0, eps="0.001")
        self.norm_act_conv(f"{name}.normactconv2", 3, inside, channels)


def network_file(version=14, *, kinds=("ordinary", "pooled", "nested"), width=6, middle=5, pooled=2, **options):
    """Returns the bytes of a file."""
    w = Writer(version, **options)
    w.words("random", version, 22, 19)
    if version >= 13:
        w.words(20, 20, 20, 20, 40, 0.25, 150)
    w.words("trunk", len(kinds), width, middle, middle - pooled, pooled, pooled)
    w.conv("model.conv_spatial", 3, 22, width)
    w.matrix("model.linear_global", 19, width)
    for i, kind in enumerate(kinds):
        w.block(kind, f"model.blocks.{i}", width, middle, pooled)
    w.norm("model.norm_trunkfinal", width)
    w.activation("model.act_trunkfinal")
    policies, scores, head, hidden = (2 if version >= 12 else 1), (6 if version >= 9 else 4), 3, 7
    w.words("model.policy_head")
    w.conv("model.policy_head.conv1p", 1, width, head)
    w.conv("model.policy_head.conv1g", 1, width, head)
    w.norm("model.policy_head.biasg", head, scale=0)
    w.activation("model.policy_head.actg")
    w.matrix("model.policy_head.linear_g", 3 * head, head)
    w.norm("model.policy_head.bias2", head, scale=0)
    w.activation("model.policy_head.act2")
    w.conv("model.policy_head.conv2p", 1, head, policies)
    w.matrix("model.policy_head.linear_pass", 3 * head, policies)
    w.words("model.value_head")
    w.conv("model.value_head.conv1", 1, width, head)
    w.norm("model.value_head.bias1", head, scale=0)
    w.activation("model.value_head.act1")
    w.matrix("model.value_head.linear2", 3 * head, hidden)
    w.bias("model.value_head.bias2", hidden)
    w.activation("model.value_head.act2")
    w.matrix("model.value_head.linear_valuehead", hidden, 3)
    w.bias("model.value_head.bias_valuehead", 3)
    w.matrix("model.value_head.linear_miscvaluehead", hidden, scores)
    w.bias("model.value_head.bias_miscvaluehead", scores)
    w.conv("model.value_head.conv_ownership", 1, head, 1)
    return bytes(w.content)


class Interpreter:
    """Computes the layers of a binary file in their order, in float64."""

    def __init__(self, content, mask):
        self.content, self.at, self.mask = content, 0, mask[..., None].astype(np.float64)

    def word(self):
        end = self.at
        while self.content[end : end + 1].isspace():
            end += 1
        start = end
        while not self.content[end : end + 1].isspace():
            end += 1
        self.at = end
        return self.content[start:end].decode()

    def integers(self, count):
        return [int(self.word()) for _ in range(count)]

    def array(self, *shape):
        start = self.content.index(b"@BIN@", self.at) + 5
        size = int(np.prod(shape))
        self.at = start + 4 * size
        return np.frombuffer(self.content[start : self.at], "<f4").reshape(shape).astype(np.float64)

    def conv(self, x):
        self.word()
        high, wide, inputs, outputs, *dilation = self.integers(6)
        assert dilation == [1, 1]
        kernel = self.array(high, wide, inputs, outputs)
        rows, columns = x.shape[1:3]
        x = np.pad(x, ((0, 0), (high // 2, high // 2), (wide // 2, wide // 2), (0, 0)))
        taps = [(i, j) for i in range(high) for j in range(wide)]
        return sum(x[:, i : i + rows, j : j + columns] @ kernel[i, j] for i, j in taps)

    def norm_act(self, x):
        self.word()
        channels = int(self.word())
        eps, scale = float(self.word()), int(self.word())
        assert self.word() == "1"
        mean, var = self.array(channels), self.array(channels)
        factor = self.array(channels) if scale else 1
        bias = self.array(channels)
        return self.act((x - mean) / np.sqrt(var + eps) * factor + bias) * self.mask

    def act(self, x):
        self.word()
        kind = self.word() if self.version >= 11 else "ACTIVATION_RELU"
        if kind == "ACTIVATION_RELU":
            return np.maximum(x, 0)
        return x * np.tanh(np.logaddexp(0, x)) if kind == "ACTIVATION_MISH" else x

    def matrix(self, x):
        self.word()
        return x @ self.array(*self.integers(2))

    def bias(self, x):
        self.word()
        return x + self.array(int(self.word()))

    def pool(self, x, largest=True):
        count = self.mask.sum((1, 2))
        mean, root = x.sum((1, 2)) / count, np.sqrt(count) - 14
        third = np.where(self.mask > 0, x, -1).max((1, 2)) if largest else mean * (root**2 / 100 - 0.1)
        return np.concatenate([mean, mean * root / 10, third], axis=1)

    def pooled(self, x, normed):
        """A convolution of ``normed``, plus the bias by the pooling of another."""
        regular = self.conv(normed)
        return regular + self.matrix(self.pool(self.norm_act(self.conv(normed))))[:, None, None]

    def block(self, x):
        kind = self.word()
        self.word()
        count = int(self.word()) if kind == "nested_bottleneck_block" else 0
        y = self.norm_act(x)
        y = self.pooled(x, y) if kind == "gpool_block" else self.conv(y)
        for _ in range(count):
            y = self.block(y)
        return x + self.conv(self.norm_act(y))

    def run(self, planes, features):
        self.word()
        self.version, _, _ = self.integers(3)
        for _ in range(7 if self.version >= 13 else 0):
            self.word()
        self.word()
        blocks, *_ = self.integers(6)
        y = self.conv(planes)
        y = y + self.matrix(features)[:, None, None]
        for _ in range(blocks):
            y = self.block(y)
        y = self.norm_act(y)
        self.word()
        moves = self.conv(y)
        pooled = self.pool(self.norm_act(self.conv(y)))
        moves = self.norm_act(moves + self.matrix(pooled)[:, None, None])
        moves = self.conv(moves)
        passes = self.matrix(pooled)
        self.word()
        y = self.norm_act(self.conv(y))
        hidden = self.act(self.bias(self.matrix(self.pool(y, largest=False))))
        value = self.bias(self.matrix(hidden))
        score = self.bias(self.matrix(hidden))
        ownership = self.conv(y)[..., 0] * self.mask[..., 0]
        policy = np.concatenate([moves.reshape(len(moves), -1, moves.shape[-1]), passes[:, None]], axis=1)
        assert not self.content[self.at :].strip()
        return {"policy": policy, "value": value, "score": score, "ownership": ownership}


def evaluate(content, planes, features):
    """Returns the outputs of a binary file, in float64."""
    return Interpreter(content, planes[..., 0]).run(planes.astype(np.float64), features.astype(np.float64))


def inputs(sizes=(9,), side=None, seed=1):
    """Returns random planes and features for boards of some sizes, in arrays of the largest, or of ``side``."""
    random, side = np.random.default_rng(seed), side or max(sizes)
    planes = np.zeros((len(sizes), side, side, 22), np.float32)
    for plane, size in zip(planes, sizes, strict=True):
        plane[:size, :size] = random.random((size, size, 22)) < 0.3
        plane[:size, :size, 0] = 1
    return planes, random.normal(size=(len(sizes), 19)).astype(np.float32)
