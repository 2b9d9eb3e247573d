"""A trial's model as a folder that needs no hpo: weights, settings, metrics, model card, prediction.

Belongs here: writing such a folder and reading it back. Does not belong here: choosing or training the
model. Read ``folder`` first, then ``card`` and ``predict``.
"""
