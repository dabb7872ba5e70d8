"""Pixels → patches → tokens → logits. Tensors only: no files, no printing."""
