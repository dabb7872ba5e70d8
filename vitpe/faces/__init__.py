"""Seeds → 40 labels and drawn faces (n, 3, 218, 178): the painter, which knows nothing of training."""
