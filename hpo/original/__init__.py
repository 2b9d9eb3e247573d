"""The winter-term report that the project repeats: its facts, its conclusions, its tables, its times.

Belongs here: everything that exists because of that one report. Only ``hpo.report`` and ``hpo.cli`` use it.
Read ``facts`` first, then ``match`` (which trial repeats which of the 14 points), ``claims`` and
``comparisons`` (whether its conclusions hold), ``tables``, and ``prices`` (what its points cost).
"""
