"""Checkpoints: written whole or not at all, where a training can go on from to the bit."""
