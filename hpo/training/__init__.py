"""The arithmetic of one trial: data, model, optimizer, schedule and the loop over epochs.

Belongs here: everything that decides a bit of the result. Does not belong here: Optuna, the database, or
any knowledge that other trials exist; a test and import-linter hold that. Read ``config`` first (the one
record that training depends on), then ``loop``.
"""
