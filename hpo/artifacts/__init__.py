"""Files that survive crashes: durable writes, trial folders (local or behind a URL), and checkpoints.

This package turns bytes into files that are either complete or absent, and finds them again. It does not
know what the bytes mean to training (``hpo.training``), nor which row of the database names them
(``hpo.store``). Read ``durable`` first, then ``folders`` and ``checkpoint``.
"""
