"""Model + data → checkpoints and a log."""
