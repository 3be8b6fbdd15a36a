"""A run's folder, its checkpoints and exports, and what they depend on."""
