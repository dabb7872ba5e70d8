"""Checkpoint history → similarity → pictures of position embeddings, without torch."""
