"""Running trials: the worker process, one trial from claim to end, and what starts workers.

Belongs here: where Optuna, training, files and lease meet, and the engines that start workers on one or
many machines (local, Slurm, Ray). Does not belong here: the training arithmetic, or SQL, with two
exceptions: ``retention`` has the queries about kept weights, and ``pruning`` runs statements of
``hpo.store.lease_table`` within the transaction of a claim. Read ``worker`` first, then ``trial`` and
``recorder``.
"""
