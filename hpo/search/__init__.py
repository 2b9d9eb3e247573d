"""What to try next and when to stop: samplers, pruners, ASHA, the baseline rule, replicates.

Belongs here: decisions as pure functions of trials. Does not belong here: the database; the caller passes
in the trials and stores the decision. Read ``samplers`` first, then ``asha`` and ``freeze_thaw``.
"""
