"""Model and data → a run's checkpoints, log and state."""
