"""Running trials: the worker process, one trial from claim to end, and what starts workers.

Belongs here: where Optuna, training, files and lease meet, and the engines that start workers on one or
many machines (local, Slurm, Ray). Does not belong here: the training arithmetic, or SQL. Read ``worker``
first, then ``trial`` and ``recorder``.
"""
