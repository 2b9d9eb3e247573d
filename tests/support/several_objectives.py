"""A study with several objectives that takes no time: a custom objective of one number."""

OWN = """
def hill(config, state):
    done = state or 0
    while done < config.epochs:
        done += 1
        yield config.x * done / config.epochs, done
"""
STUDY = """
[train]
objective = "own:hill"
epochs = 2
[space]
x = { low = 0.1, high = 1.0 }
[search]
trials = 5
sampler = "random"
pruner = "none"
objectives = ["accuracy", "epoch_seconds"]
"""
