"""The starting factors of each projection, decomposed once for all processes."""
