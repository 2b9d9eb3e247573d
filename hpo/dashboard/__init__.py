"""optuna-dashboard on the store, behind a gate that checks token, origin, method and size of a request.

This package holds the server, the gate, and the notes and files that are added to the dashboard's
responses. It does not hold figures (see ``hpo.report``). Read ``server`` first, then ``gate`` and ``app``.
"""
