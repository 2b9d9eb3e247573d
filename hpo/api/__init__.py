"""The Python API: what ``import hpo`` offers, and what the verbs of the command line call.

A study is an object here, and each verb that works on a stored study is a method of it. What belongs here
puts the packages below together for somebody who writes a script or a notebook, or a command line. Options
of the command and tables for a terminal do not belong here. Read ``study`` first.
"""
