"""A trial's model as a folder that works without hpo: weights, settings, metrics and model card.

This package writes such a folder, reads it back and predicts with it. It does not rank trials or train
models. Read ``folder`` first, then ``card`` and ``predict``.
"""
