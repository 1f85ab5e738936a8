"""Pantheon: useful work from small local models, overnight, inside git."""

__version__ = "0.1.0"
