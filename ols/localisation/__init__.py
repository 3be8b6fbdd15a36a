"""Where a classifier looks, and how well that hits what it should have seen."""
