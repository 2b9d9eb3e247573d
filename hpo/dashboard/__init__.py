"""optuna-dashboard on the store, behind a gate that checks token, origin, method and size.

Belongs here: serving, the gate, and the notes and files added to the dashboard's answers. Does not
belong here: figures of our own (``hpo.report``). Read ``server`` first, then ``gate`` and ``app``.
"""
