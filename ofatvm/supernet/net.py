"""`Supernet`, the weight-sharing network, and `Subnet`, one architecture cut out of it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ofatvm.arch import Arch, ArchSpace
from ofatvm.errors import ArchError, BudgetError
from ofatvm.supernet.layers import Block, ElasticBlock, ElasticDepthwise, conv_layer

DROPOUT = 0.1


class _Network(nn.Module):
    """Stem, first block, the given blocks and head, in checkpoint order and naming."""

    def __init__(self, space: ArchSpace, blocks: Iterable[nn.Module], origin: str) -> None:
        super().__init__()
        self.space = space
        self.origin = origin
        self.first_conv = conv_layer(
            space.in_channels,
            space.stem_width,
            3,
            stride=space.stem_stride,
            act=space.stem_activation,
        )
        first = Block(
            space.stem_width,
            space.stem_width,
            space.first_width,
            kernel=3,
            stride=1,
            act=space.first_activation,
            squeeze_excite=False,
            expands=False,
            skip=space.first_width == space.stem_width,
        )
        self.blocks = nn.ModuleList([first, *blocks])
        last, act = space.stages[-1].width, space.head_activation
        self.final_expand_layer = conv_layer(last, space.head_width, 1, act=act)
        self.feature_mix_layer = conv_layer(
            space.head_width, space.feature_width, 1, act=act, norm=False
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                dropout=nn.Dropout(DROPOUT), linear=nn.Linear(space.feature_width, space.classes)
            )
        )

    def _pooled(self, x: Tensor) -> Tensor:
        x = self.final_expand_layer(x).mean((2, 3), keepdim=True)
        features: Tensor = self.feature_mix_layer(x).flatten(1)
        return features

    def logits(self, features: Tensor, *, dropout: bool = True) -> Tensor:
        """Logits (n, classes) for features (n, feature width).

        `dropout` can only be left out: it acts in training mode alone.
        """
        head = self.classifier if dropout else self.classifier.linear
        logits: Tensor = head(features)
        return logits


class Supernet(_Network):
    """The network whose weights every architecture of a space shares.

    `origin` says where the weights come from; it starts with "untrained" when they come from a
    seed. Freshly built networks stand in training mode, as is usual.
    """

    def __init__(self, space: ArchSpace, *, seed: int = 0) -> None:
        """Weights are drawn from `seed` alone; no global generator is read or advanced."""
        if not 0 <= seed < 2**63:
            raise BudgetError(f"seed must be from 0 to 2^63 - 1, got {seed}")
        with torch.random.fork_rng(devices=[]):  # the layers' own random start is not used
            blocks = [
                _elastic_block(space, stage, position)
                for stage in range(len(space.stages))
                for position in range(space.max_depth)
            ]
            super().__init__(space, blocks, f"untrained (seed {seed})")
        _initialise(self, torch.Generator("cpu").manual_seed(seed))

    @classmethod
    def initialise(cls, space: ArchSpace, seed: int) -> Supernet:
        """An untrained supernet."""
        return cls(space, seed=seed)

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Logits (n, classes) of `arch` for NCHW float32 images of any resolution."""
        return self.logits(self.features(x, arch))

    def features(self, x: Tensor, arch: Arch) -> Tensor:
        """What the classifier sees (n, feature width) of `arch` for NCHW float32 images."""
        space = self._checked(arch)
        x = self.blocks[0](self.first_conv(x))
        for stage, position, kernel, expand in arch.active_blocks():
            block = self.blocks[1 + stage * space.max_depth + position]
            x = block(x, kernel, space.mid_channels(stage, position, expand))
        return self._pooled(x)

    def subnet_state(self, arch: Arch) -> dict[str, Tensor]:
        """The active tensors of `arch` under the names of `Subnet.state_dict()`."""
        space = self._checked(arch)
        fixed = self.state_dict(keep_vars=True)
        state = {
            name: tensor
            for name, tensor in fixed.items()
            if not name.startswith("blocks.") or name.startswith("blocks.0.")
        }
        for index, (stage, position, kernel, expand) in enumerate(arch.active_blocks(), 1):
            block = self.blocks[1 + stage * space.max_depth + position]
            active = block.sliced(kernel, space.mid_channels(stage, position, expand))
            state |= {f"blocks.{index}.{name}": tensor for name, tensor in active.items()}
        return state

    def _checked(self, arch: Arch) -> ArchSpace:
        own, other = self.space, arch.space
        if other is not own and replace(other, resolutions=own.resolutions) != own:
            raise ArchError(f"{arch} is of space {other.name}, the supernet of {own.name}")
        return own


class Subnet(_Network):
    """One architecture as a plain static network: `subnet(x)` gives logits (n, classes)."""

    def __init__(self, arch: Arch, origin: str) -> None:
        """Shapes only; `extract` fills in the weights."""
        blocks = [_static_block(arch.space, *choice) for choice in arch.active_blocks()]
        super().__init__(arch.space, blocks, origin)
        self.arch = arch

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) for NCHW float32 images of any resolution."""
        x = self.first_conv(x)
        for block in self.blocks:
            x = block(x)
        return self.logits(self._pooled(x))


def extract(supernet: Supernet, arch: Arch) -> Subnet:
    """Cut `arch` out: a copy that shares no memory with the supernet and gives the same output."""
    state = supernet.subnet_state(arch)
    with torch.device("meta"):
        subnet = Subnet(arch, supernet.origin)
    copies = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    subnet.load_state_dict(copies, assign=True)
    return subnet.train(supernet.training)


def _static_block(space: ArchSpace, stage: int, position: int, kernel: int, expand: int) -> Block:
    spec = space.stages[stage]
    return Block(
        space.block_inputs(stage, position),
        space.mid_channels(stage, position, expand),
        spec.width,
        kernel=kernel,
        stride=spec.stride if position == 0 else 1,
        act=spec.activation,
        squeeze_excite=spec.squeeze_excite,
        expands=True,
        skip=position > 0,
    )


def _elastic_block(space: ArchSpace, stage: int, position: int) -> ElasticBlock:
    spec = space.stages[stage]
    return ElasticBlock(
        space.block_inputs(stage, position),
        space.mid_channels(stage, position, space.expands[-1]),
        spec.width,
        kernels=space.kernels,
        stride=spec.stride if position == 0 else 1,
        act=spec.activation,
        squeeze_excite=spec.squeeze_excite,
        skip=position > 0,
    )


def _initialise(network: nn.Module, generator: torch.Generator) -> None:
    """He fan-out for convolutions, 0.01 for the classifier; torch sets norms as they should be.

    Blocks with a shortcut start at half strength. Otherwise an uncalibrated deep subnet doubles
    its activations block after block, and rounding errors with them.
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels // module.groups * math.prod(module.kernel_size)
                module.weight.normal_(0.0, math.sqrt(2.0 / fan_out), generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Linear):
                module.weight.normal_(0.0, 0.01, generator=generator)
                module.bias.zero_()
        for module in network.modules():
            if isinstance(module, ElasticDepthwise):
                _initialise_kernels(module, generator)
            elif isinstance(module, ElasticBlock) and module.skip:
                module.conv.point_linear.conv.conv.weight.mul_(0.5)


def _initialise_kernels(layer: ElasticDepthwise, generator: torch.Generator) -> None:
    """He for the smallest kernel, an eighth of its variance more in the rim of each larger one.

    So the crops of a kernel are about as strong as the kernel, and untrained subnets of every
    size give outputs of a sane magnitude without calibrated statistics.
    """
    weight = layer.conv.weight
    smallest, *larger = layer.kernels
    deviation = torch.zeros(weight.shape[-2:])
    for kernel, inner in reversed(list(zip(larger, layer.kernels, strict=False))):
        _centre(deviation, kernel).fill_(math.sqrt(0.25 / (kernel**2 - inner**2)))
    _centre(deviation, smallest).fill_(math.sqrt(2.0 / smallest**2))
    weight.normal_(0.0, 1.0, generator=generator).mul_(deviation)
    for source, wanted in layer.steps:
        layer.get_parameter(f"{source}to{wanted}_matrix").copy_(torch.eye(wanted**2))


def _centre(plane: Tensor, size: int) -> Tensor:
    edge = (plane.shape[-1] - size) // 2
    return plane[..., edge : edge + size, edge : edge + size]
