"""Hyperparameter optimization for people who fine-tune vision models."""

__version__ = "0.1.0"
