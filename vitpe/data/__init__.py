"""Images and labels: files or drawn faces → batches on the device."""
