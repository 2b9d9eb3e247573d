"""The computation of one trial: data, model, optimizer, schedule and the loop over epochs.

This package contains everything that determines a bit of the result. It knows neither Optuna nor the
database, nor that other trials exist; import-linter and a test enforce that. Read ``config`` first, the
record that training depends on, then ``loop``.
"""
