"""Files that survive crashes: durable writes, trial folders here or behind a URL, checkpoints.

Belongs here: whatever turns bytes into a file that is either complete or absent, and finds it again.
Does not belong here: what the bytes mean to training (``hpo.training``), or which row of the database
names them (``hpo.store``). Read ``durable`` first, then ``folders`` and ``checkpoint``.
"""
