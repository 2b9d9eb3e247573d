"""What a study is, as a value: which options are fixed, searched and listed.

Belongs here: the definition of a study, its search space, the study file with its checks and ``--set``,
and the JSON Schema. Does not belong here: the database that stores definitions (``hpo.store``), and the
samplers and pruners that search (``hpo.search``). Read ``definition`` first, then ``file``.
"""
