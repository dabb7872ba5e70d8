"""Checkpoint and images → answers: evaluation, prediction, export."""
