"""The image transformation network against its like in pytorch/examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.models.style import transform_net


@pytest.mark.slow
def test_images_come_out_as_they_went_in():
    net = transform_net(widths=(3, 4), blocks=1)
    params, state = jax.jit(lambda key: net.init(key, (1, 16, 24, 3)))(jax.random.key(0))
    y, _ = jax.jit(net.apply)(params, state, jax.random.uniform(jax.random.key(1), (2, 16, 24, 3)))
    assert y.shape == (2, 16, 24, 3)
    assert 0 < y.min() < y.max() < 1
    assert state == {}


def test_names_are_those_of_pytorchs_example():
    params, _ = jax.eval_shape(lambda key: transform_net().init(key, (1, 32, 32, 3)), jax.random.key(0))
    convs = ["conv1", "conv2", "conv3", *(f"res{i}" for i in range(1, 6)), "deconv1", "deconv2", "deconv3"]
    assert sorted(params) == sorted([*convs, "in1", "in2", "in3", "in4", "in5"])
    assert sorted(params["res2"]) == ["conv1", "conv2", "in1", "in2"]
    assert params["deconv3"]["conv2d"]["kernel"].shape == (9, 9, 32, 3)
    assert jc.summary(transform_net(bounded=False), (1, 32, 32, 3)).parameters == 1_679_235


def test_other_sizes():
    net = transform_net(1, widths=(4,), blocks=0)
    rows = jc.summary(net, (1, 16, 16, 1)).rows
    assert [row.path for row in rows] == ["conv1.conv2d", "in1", "relu1", "deconv1.conv2d", "unit_range"]
    for bad in [{"widths": ()}, {"blocks": -1}, {"widths": (0,)}]:
        with pytest.raises(jc.ArgumentError, match=next(iter(bad))):
            transform_net(**bad)


@pytest.mark.torch
def test_values_are_those_of_pytorchs_example():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class ConvLayer(nn.Module):
        def __init__(self, i, o, k, stride=1, upsample=None):
            super().__init__()
            self.upsample, self.reflection_pad = upsample, nn.ReflectionPad2d(k // 2)
            self.conv2d = nn.Conv2d(i, o, k, stride)

        def forward(self, x):
            x = nn.functional.interpolate(x, mode="nearest", scale_factor=self.upsample) if self.upsample else x
            return self.conv2d(self.reflection_pad(x))

    class ResidualBlock(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.conv1, self.in1 = ConvLayer(n, n, 3), nn.InstanceNorm2d(n, affine=True)
            self.conv2, self.in2 = ConvLayer(n, n, 3), nn.InstanceNorm2d(n, affine=True)

        def forward(self, x):
            return self.in2(self.conv2(torch.relu(self.in1(self.conv1(x))))) + x

    class TransformerNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.in1 = ConvLayer(3, 32, 9), nn.InstanceNorm2d(32, affine=True)
            self.conv2, self.in2 = ConvLayer(32, 64, 3, 2), nn.InstanceNorm2d(64, affine=True)
            self.conv3, self.in3 = ConvLayer(64, 128, 3, 2), nn.InstanceNorm2d(128, affine=True)
            for i in range(1, 6):
                setattr(self, f"res{i}", ResidualBlock(128))
            self.deconv1, self.in4 = ConvLayer(128, 64, 3, 1, 2), nn.InstanceNorm2d(64, affine=True)
            self.deconv2, self.in5 = ConvLayer(64, 32, 3, 1, 2), nn.InstanceNorm2d(32, affine=True)
            self.deconv3 = ConvLayer(32, 3, 9)

        def forward(self, x):
            for i in (1, 2, 3):
                x = torch.relu(getattr(self, f"in{i}")(getattr(self, f"conv{i}")(x)))
            for i in range(1, 6):
                x = getattr(self, f"res{i}")(x)
            for i in (1, 2):
                x = torch.relu(getattr(self, f"in{i + 3}")(getattr(self, f"deconv{i}")(x)))
            return self.deconv3(x)

    torch.manual_seed(0)
    theirs = TransformerNet().eval()
    net = transform_net(bounded=False)
    x = np.random.default_rng(0).random((2, 16, 20, 3), np.float32)
    params, state = jc.weights.from_torch(net, theirs.state_dict(), x.shape)
    with torch.no_grad():
        want = theirs(torch.tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    y, _ = jax.jit(net.apply)(params, state, jnp.asarray(x))
    assert_allclose(y, want, atol=1e-4 * np.abs(want).max())
