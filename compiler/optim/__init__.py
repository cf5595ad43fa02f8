"""Optimizers, and schedules of their learning rates. Names and arguments are PyTorch's."""

from compiler.optim.adaptive import ASGD, Adadelta, RAdam, Rprop
from compiler.optim.optimizers import (
    LAMB,
    SGD,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RMSprop,
    clip_grad_norm_,
    clip_grad_value_,
)
from compiler.optim.schedules import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    Schedule,
    SequentialLR,
    StepLR,
)

__all__ = ["ASGD", "LAMB", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ChainedScheduler", "ConstantLR",
           "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR", "ExponentialLR", "LambdaLR", "LinearLR",
           "MultiStepLR", "MultiplicativeLR", "NAdam", "OneCycleLR", "Optimizer", "PolynomialLR", "RAdam", "RMSprop",
           "ReduceLROnPlateau", "Rprop", "Schedule", "SequentialLR", "StepLR", "clip_grad_norm_", "clip_grad_value_"]
