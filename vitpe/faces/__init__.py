"""40 attributes and a seed → drawn faces (n, 3, 218, 178): the painter, which knows nothing of training."""
