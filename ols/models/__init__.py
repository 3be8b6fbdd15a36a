"""Networks: how they are built, and from which weights they start."""
