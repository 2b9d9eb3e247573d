"""The winter-term report that the project replays: its facts, its claims, its tables.

Belongs here: everything that exists because of that one report. No other package but ``hpo.report`` and
``hpo.cli`` knows of it. Read ``facts`` first, then ``match`` (which trial is which of the 14 points) and
``claims``.
"""
