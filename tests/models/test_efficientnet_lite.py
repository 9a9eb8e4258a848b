"""EfficientNet-Lite: names, arguments, and the reference implementation where it is installed."""

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.tree import walk
from tests.models.shapes import before, drawn, outputs, rates, trained
from tests.models.zoo import images, tensors

SIZES = {0: 224, 1: 240, 2: 260, 3: 280, 4: 300}
COUNTS = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072, 3: 8_197_096, 4: 13_006_568}


def variant(i, *args, **options):
    return getattr(jc.models, f"efficientnet_lite{i}")(*args, **options)


@pytest.mark.parametrize("i", SIZES)
def test_counts_are_the_reference_implementations(i):
    assert jc.summary(variant(i), (1, 64, 64, 3)).parameters == COUNTS[i]


def test_names_and_shapes_are_the_reference_implementations():
    net = variant(0)
    zeros = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), drawn(net, (1, 64, 64, 3)))
    found = {name: a.shape for name, a in jc.weights.to_torch(net, *zeros).items()}
    # 49 convolutions, each with a norm of four arrays, and the scores; the file counts the norms' batches too.
    assert len(found) == 49 * 5 + 2 == 296 - 49
    assert found["_conv_stem.weight"] == (32, 3, 3, 3)
    assert found["_blocks.0._depthwise_conv.weight"] == (32, 1, 3, 3)
    assert "_blocks.0._expand_conv.weight" not in found
    assert found["_blocks.15._expand_conv.weight"] == (1152, 192, 1, 1)
    assert found["_blocks.15._bn2.running_var"] == (320,)
    assert found["_conv_head.weight"] == (1280, 320, 1, 1)
    assert found["_fc.weight"] == (1000, 1280)


def test_the_stem_the_head_and_the_ends_are_not_scaled():
    found = outputs(jc.models.efficientnet_lite(width=2.0, depth=3.0), (1, 64, 64, 3))
    assert found["_conv_stem"][-1] == 32
    assert found["_conv_head"][-1] == 1280
    assert sum(path.count(".") == 1 for path in found) == 1 + 3 * (2 + 2 + 3 + 3 + 4) + 1
    assert found["_blocks.0"][-1] == 32


def test_norms_activations_and_padding_are_tensorflows():
    layers = [layer for _, layer in walk(variant(0))]
    assert {(n.eps, n.momentum) for n in layers if isinstance(n, jc.BatchNorm)} == {(1e-3, 0.01)}
    assert {conv.padding for conv in layers if isinstance(conv, jc.Conv)} == {"SAME"}
    assert {fn.function for fn in layers if isinstance(fn, jc.Fn)} == {jax.nn.relu6}


def test_classes_channels_and_small_images_are_arguments():
    net = variant(0, 7, small_images=True)
    params, _ = drawn(net, (2, 32, 32, 1))
    assert params["_conv_stem"]["kernel"].shape == (3, 3, 1, 32)
    assert trained(net, (2, 32, 32, 1), jax.random.key(0)) == (2, 7)
    assert before(net, (2, 32, 32, 1), "_avg_pooling") == (2, 4, 4, 1280)


def test_noise():
    assert rates(variant(0), jc.DropPath) == pytest.approx([0.2 * i / 16 for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)])
    assert rates(variant(2), jc.Dropout) == [0.3]
    with pytest.raises(jc.MissingKeyError, match=r"^_blocks\.2\.stochastic_depth \(DropPath\): key must be given"):
        trained(variant(0), (1, 32, 32, 3))
    assert trained(variant(0, 5, dropout=0, drop_path=0), (2, 32, 32, 3)) == (2, 5)


@pytest.mark.parametrize("option", ["width", "depth"])
def test_factors_are_positive(option):
    with pytest.raises(jc.ArgumentError, match=f"^{option} must be positive, got 0$"):
        jc.models.efficientnet_lite(**{option: 0})


@pytest.mark.torch
@pytest.mark.parametrize("i", SIZES)
def test_logits_are_the_reference_implementations(i):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("efficientnet_lite_pytorch")
    model = reference.EfficientNet.from_name(f"efficientnet-lite{i}").eval()
    held = model.state_dict()
    arrays = tensors({name: tuple(a.shape) for name, a in held.items() if not name.endswith("num_batches_tracked")})
    model.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()}, strict=False)
    x = images((1, SIZES[i], SIZES[i], 3))
    with torch.no_grad():
        wanted = model(torch.from_numpy(np.moveaxis(x, -1, 1).copy())).numpy()
    net = variant(i)
    params, state = jc.weights.from_torch(net, arrays, x.shape)
    logits, _ = jax.jit(net.apply)(params, state, x)
    assert 0.1 < wanted.std() < 100
    assert np.abs(logits - wanted).max() <= 1e-4 * np.abs(wanted).max()
