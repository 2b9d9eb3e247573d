"""Analysis of a study's trials: records, intervals, importance, cost, simulation, the final evaluation.

Belongs here: calculations over trials that were read from the store, and the tables and figures that show
them. Does not belong here: the pages and commands that present them (``hpo.report``, ``hpo.cli``), and the
original report (``hpo.original``). Read ``records`` first, then ``intervals``. ``cost`` forecasts a study's
time, ``strategies`` compares search strategies by ``simulation``, ``finish`` evaluates the best settings.
"""
