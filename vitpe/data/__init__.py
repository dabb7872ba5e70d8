"""Files → samples → batches."""
