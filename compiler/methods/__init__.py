"""The Tensor's methods by family, each a mixin over the few primitives that ``Tensor`` itself has."""
