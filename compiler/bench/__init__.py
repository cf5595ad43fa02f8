"""How fast a model runs: ``python -m compiler.bench MODEL --device CPU``.

The model is built and run in a process of its own, so that nothing else disturbs it; then, where they are installed,
PyTorch and tinygrad run the very same file of :mod:`compiler.models` with the same weights, each in its own process.
"""
