"""Files that tensors come in: safetensors, GGUF, PyTorch's .pt, tar and zip.

    state = safe_load("model.safetensors")                  # {name: Tensor}
    metadata, tensors = gguf_load("llama.gguf", device="AM")   # dequantised on the device
    state = torch_load("model.pt")                          # nothing in the file is executed
    files = tar_extract(Tensor(data))                       # {path: uint8 tensor}, slices of the tensor

A file is a path, bytes, or a one-dimensional uint8 tensor: then headers are read back, and the rest stays where it is.
What is malformed is one :class:`FileFormatError`, which names the file, the place and what is wrong with it.
"""

from compiler.files.archives import tar_extract, zip_extract
from compiler.files.gguf import gguf_load
from compiler.files.quants import Quantized, quantize
from compiler.files.safetensors import safe_load, safe_load_metadata, safe_save
from compiler.files.source import FileFormatError
from compiler.files.torchfile import torch_load

__all__ = [
    "FileFormatError",
    "Quantized",
    "gguf_load",
    "quantize",
    "safe_load",
    "safe_load_metadata",
    "safe_save",
    "tar_extract",
    "torch_load",
    "zip_extract",
]
