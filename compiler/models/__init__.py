"""Models that people know, in the words of PyTorch: what a file here needs of ``compiler.nn`` is in ``torch.nn`` too.

Names in their states are those of the checkpoints that one finds: torchvision's for ResNet, the transformers library's
for GPT-2, llama.cpp's for LLaMA, OpenAI's for Whisper.

    from compiler.models.gpt2 import GPT2, SIZES
    from compiler.models.generate import Generator
"""
