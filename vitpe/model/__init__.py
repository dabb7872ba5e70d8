"""The Vision Transformer: batches → logits."""
