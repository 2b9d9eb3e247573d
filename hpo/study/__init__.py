"""What a study is, as a value: what is fixed, searched and listed, read from a TOML file and checked.

Belongs here: the definition, its search space, the study file and its JSON Schema. Does not belong here:
the database that stores a definition (``hpo.store``), or the samplers that search it (``hpo.search``).
Read ``definition`` first, then ``file``.
"""
