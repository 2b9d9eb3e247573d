"""A study as one self-contained HTML page, and each of its figures and tables as CSV.

This package holds plots and page layout. It does not hold calculations (see ``hpo.analysis``) or facts of
the original report (see ``hpo.original``). Read ``page`` first.
"""
