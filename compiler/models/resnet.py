"""ResNet (He et al., 2015), with the names of torchvision's checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler import nn

__all__ = ["DEPTHS", "ResNet", "resnet"]

F: Any = nn.functional
# number of layers: (blocks of each stage, do they narrow in the middle?), table 1 of the paper
DEPTHS = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True),
          152: ((3, 8, 36, 3), True)}


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inner: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _across(inner, width, stride)

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inner: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _across(inner, 4 * width, stride)

    def forward(self, x: Any) -> Any:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _across(inner: int, outer: int, stride: int) -> Any:
    """What brings a block's input to the shape of its output."""
    if stride == 1 and inner == outer:
        return None
    return nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))


class ResNet(nn.Module):
    """(batch, 3, y, x) -> (batch, classes)

    :param widths: channels of the four stages.
    :param small: a first convolution of 3x3 and no pooling, for images of 32x32 and less.
    """

    def __init__(self, depths: Sequence[int], bottleneck: bool = False, classes: int = 1000,
                 widths: Sequence[int] = (64, 128, 256, 512), small: bool = False, channels: int = 3) -> None:
        super().__init__()
        block: Any = Bottleneck if bottleneck else BasicBlock
        self.small = small
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False) if small \
            else nn.Conv2d(channels, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inner = widths[0]
        for n, (depth, width) in enumerate(zip(depths, widths, strict=False)):
            blocks = []
            for k in range(depth):
                blocks.append(block(inner, width, 2 if n and not k else 1))
                inner = width * block.expansion
            setattr(self, f"layer{n + 1}", nn.Sequential(*blocks))
        self.stages = len(depths)
        self.fc = nn.Linear(inner, classes)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = F.max_pool2d(x, 3, 2, 1)
        for n in range(1, self.stages + 1):
            x = getattr(self, f"layer{n}")(x)
        return self.fc(x.mean((2, 3)))


def resnet(layers: int = 50, classes: int = 1000) -> ResNet:
    """ResNet-18, 34, 50, 101 or 152. :raises ValueError: another number of layers."""
    if layers not in DEPTHS:
        raise ValueError(f"ResNet-{layers} is none of the paper's: {', '.join(map(str, DEPTHS))}")
    return ResNet(*DEPTHS[layers], classes)
