"""The command ``hpo``: verbs, options, console output, live progress, diagnosis.

Belongs here: reading arguments, calling the module that does the work, and showing the result. Does not
belong here: the work itself. Read ``main`` first, then ``results``.
"""
