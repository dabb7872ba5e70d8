"""Probabilities and labels (numpy) → scores, intervals, thresholds, comparison, groups."""
