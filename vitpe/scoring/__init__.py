"""Logits + labels → scores → tables."""
