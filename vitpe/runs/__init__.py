"""A run's folder: configuration, log, checkpoints and state; who may write, and the one parser of their metadata."""
