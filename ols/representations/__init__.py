"""What networks have learned: features by layer, how alike they are, and what heads make of them."""
