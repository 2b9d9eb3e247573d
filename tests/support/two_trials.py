"""A study of two trials, and its objective, which reports once."""

STUDY = """
[train]
objective = "own:climb"
[space]
x = { low = 0.0, high = 1.0 }
[search]
trials = 2
"""
OWN = """
def climb(config, state):
    yield config.x, None
"""
