"""What can be measured: a model of :mod:`compiler.models`, and what a step of it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """:param module: of compiler.models; ``arguments``: of what :func:`build` makes there.
    :param kind: "train" (images, a loss, an optimizer's step), "infer" (images), "decode" (a token after others),
        "listen" (a spectrogram through an encoder).
    :param batch: by default. :param shape: of one input, without the batch.
    """

    what: str
    module: str
    kind: str
    arguments: tuple[Any, ...]
    batch: int
    shape: tuple[int, ...] = ()
    classes: int = 10

    @property
    def unit(self) -> str:
        return {"decode": "tokens/s", "listen": "seconds of sound/s"}.get(self.kind, "images/s")


TASKS = {
    "mnist": Task("a small conv net on 28x28 digits, training", "convnet", "train", (28,), 64, (1, 28, 28)),
    "mnist-tiny": Task("the same on 8x8 digits, 4 channels", "convnet", "train", (8, 4, 16), 16, (1, 8, 8)),
    "resnet-tiny": Task("two residual blocks on 8x8 pictures, training", "resnet", "train",
                        ((1, 1), False, 4, (4, 8), True), 8, (3, 8, 8), 4),
    "resnet18": Task("ResNet-18 on 64x64 pictures, training", "resnet", "train", ((2, 2, 2, 2), False, 1000), 4,
                     (3, 64, 64), 1000),
    "resnet18-infer": Task("ResNet-18 on 224x224 pictures", "resnet", "infer", ((2, 2, 2, 2), False, 1000), 1,
                           (3, 224, 224), 1000),
    "resnet50": Task("ResNet-50 on 64x64 pictures, training", "resnet", "train", ((3, 4, 6, 3), True, 1000), 2,
                     (3, 64, 64), 1000),
    "resnet50-infer": Task("ResNet-50 on 224x224 pictures", "resnet", "infer", ((3, 4, 6, 3), True, 1000), 1,
                           (3, 224, 224), 1000),
    "gpt2": Task("GPT-2 (124M), one token after the other", "gpt2", "decode", ("small",), 1),
    "gpt2-tiny": Task("GPT-2 with 2 layers of 64, one token after the other", "gpt2", "decode", ("tiny",), 1),
    "gpt2-medium": Task("GPT-2 (355M), one token after the other", "gpt2", "decode", ("medium",), 1),
    "llama-tiny": Task("LLaMA with 2 layers of 64, one token after the other", "llama", "decode", ("tiny",), 1),
    "llama-15m": Task("LLaMA (24M with its tables: stories15M's shape), one token after the other", "llama", "decode",
                      ("15m",), 1),
    "llama-1b": Task("LLaMA (1.1G, TinyLlama's shape), one token after the other", "llama", "decode", ("1b",), 1),
    "whisper-mini": Task("Whisper's encoder, 2 layers of 32, a second of sound", "whisper", "listen", ("mini",), 1),
    "whisper-tiny": Task("Whisper-tiny's encoder, 30 seconds of sound", "whisper", "listen", ("tiny",), 1),
}
CLASSES = {"convnet": "ConvNet", "resnet": "ResNet", "gpt2": "GPT2", "llama": "LLaMA", "whisper": "Whisper"}


def build(task: Task, models: Any) -> Any:
    """The model, from the module of that name as it was loaded for a library. Nothing of its weights is settled."""
    made = getattr(models, CLASSES[task.module])
    arguments = [models.SIZES[a] if isinstance(a, str) else a for a in task.arguments]
    return made(*arguments)
