"""What the trials of a study say: records, intervals, importance, cost, simulation, the final evaluation.

Belongs here: calculations over trials that have been read, and the tables and figures that show them.
Does not belong here: the pages and commands that present them (``hpo.report``, ``hpo.cli``), or the
original report (``hpo.original``). Read ``records`` first.
"""
