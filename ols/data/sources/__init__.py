"""Where images and labels come from: one module for each form on disk."""
