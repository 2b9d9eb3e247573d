"""The database: studies, trials, leases, and everything that reads or writes them.

Belongs here: SQL statements, and the protocol that keeps each trial with one worker at a time. Two modules
of ``hpo.workers`` run statements, too: ``retention`` its own, ``pruning`` those of ``lease_table``. Does
not belong here: training, what to try next (``hpo.search``), or what the numbers mean (``hpo.analysis``).

Read ``lease`` first: its docstring describes the protocol. Then read ``storage`` (Optuna's storage with
fences and retries), ``queue`` (how a worker claims a trial) and ``studies`` (how studies come to be).
"""
