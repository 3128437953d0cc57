"""bnncc: binary neural networks from PyTorch to the board."""

__version__ = "0.1.0"
