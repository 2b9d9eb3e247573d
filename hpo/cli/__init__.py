"""The command ``hpo``: verbs, options, console output, live progress and diagnosis.

Verbs read options, call the module that does the work, and show the result. The work itself is elsewhere.
Read ``main`` first, then ``run`` for running studies, or ``results`` for showing them.
"""
