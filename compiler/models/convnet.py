"""A small convolutional network for images of digits."""

from __future__ import annotations

from typing import Any

from compiler import nn

__all__ = ["ConvNet"]

F: Any = nn.functional


class ConvNet(nn.Module):
    """(batch, 1, size, size) -> (batch, classes): two convolutions, a pooling, two linear layers.

    :param size: of the images' sides, even: 28 for MNIST, 8 for scikit-learn's digits.
    """

    def __init__(self, size: int = 28, width: int = 16, hidden: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.norm = nn.BatchNorm2d(2 * width)
        self.fc1 = nn.Linear(2 * width * (size // 2) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.norm(self.conv2(F.relu(self.conv1(x)))))
        x = F.max_pool2d(x, 2).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))
