"""Plans in torch."""

from typing import Any

import torch

from experiments.benchmarks.networks import (
    Average,
    ChannelNorm,
    Conv,
    Dense,
    Flatten,
    Norm,
    Part,
    Plan,
    Pool,
    Residual,
    Scale,
    Skip,
    Up,
    channels_first,
    leaves,
)


class TorchResidual(torch.nn.Module):
    """`Residual` in torch."""

    def __init__(self, body: torch.nn.Module, shortcut: torch.nn.Module):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Any) -> Any:
        return self.body(x) + self.shortcut(x)


class TorchSkip(torch.nn.Module):
    """`Skip` in torch."""

    def __init__(self, body: torch.nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Any) -> Any:
        return torch.cat([x, self.body(x)], 1)


class OnChannels(torch.nn.Module):
    """A layer of the last axis, on the channels of each position: channels last in memory, this copies nothing."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Any) -> Any:
        return self.layer(x.movedim(1, -1)).movedim(-1, 1)


class TorchScale(torch.nn.Module):
    """`Scale` in torch."""

    def __init__(self, channels: int):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((channels, 1, 1), 1e-6))

    def forward(self, x: Any) -> Any:
        return x * self.scale


def torch_network(plan: Plan, params: dict[str, Any] | None = None) -> torch.nn.Module:
    """Returns the plan in torch, channels last in memory where torch has a format for it; torch draws its weights or
    they are jaxconv's ``params``."""
    found = leaves(plan, params or {})
    of = torch.nn
    convs: dict[int, Any] = {1: of.Conv1d, 2: of.Conv2d, 3: of.Conv3d}
    pools: dict[int, Any] = {1: of.MaxPool1d, 2: of.MaxPool2d, 3: of.MaxPool3d}
    averages: dict[int, Any] = {1: of.AdaptiveAvgPool1d, 2: of.AdaptiveAvgPool2d, 3: of.AdaptiveAvgPool3d}

    def loaded(layer: Any) -> torch.nn.Module:
        if params is None:
            return layer
        kernel, bias = channels_first(*next(found))
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(kernel))
            if bias is not None:
                layer.bias.copy_(torch.tensor(bias))
        return layer

    def module(part: Part) -> torch.nn.Module:
        match part:
            case Conv(inputs, features, window, stride, padding, groups, bias, rank):
                return loaded(convs[rank](inputs, features, window, stride, padding, groups=groups, bias=bias))
            case Up(inputs, features):
                return loaded(of.ConvTranspose2d(inputs, features, 2, 2))
            case Norm(channels):
                next(found)
                return of.BatchNorm2d(channels)
            case ChannelNorm(channels):
                next(found)
                return OnChannels(of.LayerNorm(channels, eps=1e-6))
            case Scale(channels):
                next(found)
                return TorchScale(channels)
            case Pool(window, rank, stride, padding):
                return pools[rank](window, stride, padding)
            case Average(rank):
                return of.Sequential(averages[rank](1), of.Flatten())
            case Flatten():
                return of.Flatten()
            case Dense(inputs, features):
                return OnChannels(loaded(of.Linear(inputs, features)))
            case Residual(body, shortcut):
                return TorchResidual(serial(body), serial(shortcut))
            case Skip(body):
                return TorchSkip(serial(body))
        return of.GELU() if part == "gelu" else {"relu": of.ReLU, "relu6": of.ReLU6}[part](inplace=True)

    def serial(plan: Plan) -> torch.nn.Module:
        return of.Sequential(*map(module, plan))

    model = serial(plan)
    if any(isinstance(part, Conv) and part.rank == 3 for part in plan):
        return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
