"""Checkpoint history → pictures of what position embeddings learned. numpy only."""
