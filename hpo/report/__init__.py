"""A study as one self-contained HTML page, and every figure and table as CSV.

Belongs here: plots and page layout. Does not belong here: calculations (``hpo.analysis``) or facts of
the original report (``hpo.original``). Read ``page`` first.
"""
