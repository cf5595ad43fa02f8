"""Optimizers, and schedules of their learning rates. Names and arguments are PyTorch's."""

from compiler.optim.optimizers import LAMB, SGD, Adam, AdamW, Optimizer
from compiler.optim.schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    Schedule,
    StepLR,
)

__all__ = ["Adam", "AdamW", "CosineAnnealingLR", "ExponentialLR", "LAMB", "LambdaLR", "LinearLR", "MultiStepLR",
           "Optimizer", "SGD", "Schedule", "StepLR"]
