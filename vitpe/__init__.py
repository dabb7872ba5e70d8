"""vitpe trains a Vision Transformer on face attributes and shows what its position embeddings learn."""

__version__ = "0.3.0"
