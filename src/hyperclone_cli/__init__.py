"""Grow a pretrained language model into a larger one that computes the same function."""

__version__ = "0.1.0"
