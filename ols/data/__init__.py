"""Data: what is on disk, which samples when, and batches on the device. Importing this imports nothing."""
