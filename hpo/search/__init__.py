"""What to try next and when to stop: samplers, ASHA, the baseline rule, replicates.

Belongs here: decisions as pure functions of trials. Does not belong here: the database; the caller
passes in the trials and writes down the answer. Read ``samplers`` first, then ``asha``.
"""
