"""The losses in other people's trainers: a callback each for Lightning and transformers."""
