"""Checkpoints of published code into model folders."""
