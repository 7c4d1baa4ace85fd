"""Static and elastic layers of MBConv networks, named as in published checkpoints.

An elastic layer holds the weights of its largest choice. What is active is an argument of every
call and never state; `sliced` gives the active tensors under the names of the static layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ofatvm.arch import make_divisible
from ofatvm.supernet.depthwise import depthwise

BN_EPS = 1e-5
BN_MOMENTUM = 0.1


def activation(name: str) -> nn.Module:
    """The module of an activation name of `Operator.activation`."""
    kinds: dict[str, type[nn.Module]] = {
        "": nn.Identity,
        "relu": nn.ReLU,
        "h_swish": nn.Hardswish,
        "h_sigmoid": nn.Hardsigmoid,
    }
    return kinds[name]()


def conv_layer(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    stride: int = 1,
    depthwise: bool = False,
    act: str = "",
    norm: bool = True,
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation; padding is kernel // 2."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["conv"] = nn.Conv2d(
        channels_in,
        channels_out,
        kernel,
        stride,
        padding=kernel // 2,
        groups=channels_in if depthwise else 1,
        bias=False,
    )
    if norm:
        parts["bn"] = nn.BatchNorm2d(channels_out, eps=BN_EPS, momentum=BN_MOMENTUM)
    if act:
        parts["act"] = activation(act)
    return nn.Sequential(parts)


def squeeze_width(mid: int) -> int:
    """Channels between the two dense layers of squeeze-and-excite."""
    return make_divisible(mid // 4)


class SqueezeExcite(nn.Module):
    """Scale channels by what their global means say."""

    def __init__(self, mid: int) -> None:
        """`mid` channels in and out."""
        super().__init__()
        width = squeeze_width(mid)
        self.fc = nn.Sequential(
            OrderedDict(
                reduce=nn.Conv2d(mid, width, 1),
                relu=nn.ReLU(),
                expand=nn.Conv2d(width, mid, 1),
                h_sigmoid=nn.Hardsigmoid(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, mid, h, w) to the same shape."""
        factors: Tensor = self.fc(x.mean((2, 3), keepdim=True))
        return x * factors


class Block(nn.Module):
    """A static MBConv; without `expands` it starts at its depthwise convolution."""

    def __init__(
        self,
        channels_in: int,
        mid: int,
        channels_out: int,
        *,
        kernel: int,
        stride: int,
        act: str,
        squeeze_excite: bool,
        expands: bool,
        skip: bool,
    ) -> None:
        """`mid` equals `channels_in` when the block does not expand."""
        super().__init__()
        self.skip = skip
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        if expands:
            parts["inverted_bottleneck"] = conv_layer(channels_in, mid, 1, act=act)
        depthwise = conv_layer(mid, mid, kernel, stride=stride, depthwise=True, act=act)
        if squeeze_excite:
            depthwise.add_module("se", SqueezeExcite(mid))
        parts["depth_conv"] = depthwise
        parts["point_linear"] = conv_layer(mid, channels_out, 1)
        self.conv = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels_in, h, w) to (n, channels_out, h / stride, w / stride)."""
        y: Tensor = self.conv(x)
        return x + y if self.skip else y


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


class ElasticNorm(nn.Module):
    """Batch norm over the first channels, as many as the input has."""

    def __init__(self, channels: int) -> None:
        """`channels` is the largest width."""
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)

    def sliced(self, channels: int) -> dict[str, Tensor]:
        """Views of weight, bias and running statistics; the batch counter as it is."""
        tensors = {**dict(self.bn.named_parameters()), **dict(self.bn.named_buffers())}
        return {name: t[:channels] if t.ndim else t for name, t in tensors.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, c, h, w); training updates the statistics of those c channels."""
        active = self.sliced(x.shape[1])
        if self.training:
            active["num_batches_tracked"].add_(1)
        return F.batch_norm(
            x,
            active["running_mean"],
            active["running_var"],
            active["weight"],
            active["bias"],
            self.training,
            BN_MOMENTUM,
            BN_EPS,
        )


class ElasticPointwise(nn.Module):
    """1x1 convolution from the first input channels to the first output channels."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """Both are the largest widths."""
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)

    def sliced(self, channels_in: int, channels_out: int) -> Tensor:
        """The active weight, (channels_out, channels_in, 1, 1)."""
        return self.conv.weight[:channels_out, :channels_in]


class ElasticDepthwise(nn.Module):
    """Depthwise convolution whose smaller kernels come from the larger ones.

    Each step down crops the centre of the next larger kernel and multiplies it, flattened, by a
    matrix that all channels share.
    """

    def __init__(self, channels: int, kernels: tuple[int, ...]) -> None:
        """`kernels` in rising order."""
        super().__init__()
        self.kernels = kernels
        self.conv = nn.Conv2d(channels, channels, kernels[-1], groups=channels, bias=False)
        self.steps = tuple(zip(kernels[:0:-1], kernels[-2::-1], strict=True))
        for source, wanted in self.steps:
            matrix = nn.Parameter(torch.empty(wanted**2, wanted**2))
            self.register_parameter(f"{source}to{wanted}_matrix", matrix)

    def sliced(self, channels: int, kernel: int) -> Tensor:
        """The active weight, (channels, 1, kernel, kernel)."""
        weight: Tensor = self.conv.weight[:channels]
        for source, wanted in self.steps:
            if source <= kernel:
                break
            edge = (source - wanted) // 2
            crop = weight[:, :, edge : edge + wanted, edge : edge + wanted]
            matrix = self.get_parameter(f"{source}to{wanted}_matrix")
            weight = F.linear(crop.reshape(channels, -1), matrix).view(crop.shape)
        return weight


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-and-excite whose inner width follows the active channels."""

    def __init__(self, mid: int) -> None:
        """`mid` is the largest width."""
        super().__init__()
        width = squeeze_width(mid)
        self.fc = nn.ModuleDict(
            {"reduce": nn.Conv2d(mid, width, 1), "expand": nn.Conv2d(width, mid, 1)}
        )

    def sliced(self, mid: int) -> dict[str, Tensor]:
        """Weights and biases of both layers, for `mid` active channels."""
        width = squeeze_width(mid)
        full = dict(self.named_parameters())
        return {
            "fc.reduce.weight": full["fc.reduce.weight"][:width, :mid],
            "fc.reduce.bias": full["fc.reduce.bias"][:width],
            "fc.expand.weight": full["fc.expand.weight"][:mid, :width],
            "fc.expand.bias": full["fc.expand.bias"][:mid],
        }

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, c, h, w) to the same shape."""
        active = self.sliced(x.shape[1])
        y = x.mean((2, 3), keepdim=True)
        y = F.relu(F.conv2d(y, active["fc.reduce.weight"], active["fc.reduce.bias"]))
        y = F.conv2d(y, active["fc.expand.weight"], active["fc.expand.bias"])
        return x * F.hardsigmoid(y)


class _PointwiseNorm(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = ElasticPointwise(channels_in, channels_out)
        self.bn = ElasticNorm(channels_out)

    def sliced(self, channels_in: int, channels_out: int) -> dict[str, Tensor]:
        weight = self.conv.sliced(channels_in, channels_out)
        return {"conv.weight": weight, **_prefixed("bn", self.bn.sliced(channels_out))}

    def forward(self, x: Tensor, channels_out: int) -> Tensor:
        y: Tensor = self.bn(F.conv2d(x, self.conv.sliced(x.shape[1], channels_out)))
        return y


class _DepthwiseNorm(nn.Module):
    def __init__(
        self, mid: int, kernels: tuple[int, ...], stride: int, act: str, squeeze_excite: bool
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv = ElasticDepthwise(mid, kernels)
        self.bn = ElasticNorm(mid)
        self.act = activation(act)
        self.se = ElasticSqueezeExcite(mid) if squeeze_excite else None

    def sliced(self, mid: int, kernel: int) -> dict[str, Tensor]:
        tensors = {"conv.weight": self.conv.sliced(mid, kernel)}
        tensors |= _prefixed("bn", self.bn.sliced(mid))
        if self.se is not None:
            tensors |= _prefixed("se", self.se.sliced(mid))
        return tensors

    def forward(self, x: Tensor, kernel: int) -> Tensor:
        weight = self.conv.sliced(x.shape[1], kernel)
        y = self.act(self.bn(depthwise(x, weight, self.stride)))
        return y if self.se is None else self.se(y)


class _MBConv(nn.Module):
    def __init__(
        self,
        channels_in: int,
        mid: int,
        channels_out: int,
        kernels: tuple[int, ...],
        stride: int,
        act: str,
        squeeze_excite: bool,
    ) -> None:
        super().__init__()
        self.inverted_bottleneck = _PointwiseNorm(channels_in, mid)
        self.depth_conv = _DepthwiseNorm(mid, kernels, stride, act, squeeze_excite)
        self.point_linear = _PointwiseNorm(mid, channels_out)


class ElasticBlock(nn.Module):
    """An MBConv with elastic kernel and elastic inner width."""

    def __init__(
        self,
        channels_in: int,
        mid: int,
        channels_out: int,
        *,
        kernels: tuple[int, ...],
        stride: int,
        act: str,
        squeeze_excite: bool,
        skip: bool,
    ) -> None:
        """`mid` is the largest inner width."""
        super().__init__()
        self.skip = skip
        self.channels_in = channels_in
        self.channels_out = channels_out
        self.act = activation(act)
        self.conv = _MBConv(channels_in, mid, channels_out, kernels, stride, act, squeeze_excite)

    def sliced(self, kernel: int, mid: int) -> dict[str, Tensor]:
        """Active tensors under the names of `Block`; views where that is possible."""
        conv = self.conv
        return {
            **_prefixed(
                "conv.inverted_bottleneck", conv.inverted_bottleneck.sliced(self.channels_in, mid)
            ),
            **_prefixed("conv.depth_conv", conv.depth_conv.sliced(mid, kernel)),
            **_prefixed("conv.point_linear", conv.point_linear.sliced(mid, self.channels_out)),
        }

    def forward(self, x: Tensor, kernel: int, mid: int) -> Tensor:
        """Map (n, channels_in, h, w) to (n, channels_out, h / stride, w / stride)."""
        y = self.act(self.conv.inverted_bottleneck(x, mid))
        y = self.conv.depth_conv(y, kernel)
        y = self.conv.point_linear(y, self.channels_out)
        return x + y if self.skip else y
