"""The database: studies, trials, leases and everything that is read from or written to them.

Belongs here: every SQL statement, and the protocol that keeps a trial with one worker at a time. Does
not belong here: training, or what the numbers mean (``hpo.analysis``). Read ``lease`` first: its
docstring tells the protocol. Then ``storage`` (Optuna's storage with a fence), ``studies`` and
``queue``.
"""
