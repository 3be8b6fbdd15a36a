"""What is measured of a model: from logits and labels, nothing of images, files or training."""
