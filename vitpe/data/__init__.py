"""Files, or drawn faces → samples (names, labels, images on demand) → batches of cropped images on the device."""
