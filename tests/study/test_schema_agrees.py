"""The loader and the JSON Schema agree about mutated study files.

The schema may never refuse a file that the loader accepts. The loader refuses more, since a JSON Schema
cannot express:

- relations between the values of one range: low above high, a step that misses high, a step too small;
- relations between tables of the file: an option both fixed and searched, a ``when`` on a value that the
  other option never has, on a range or in a circle, an option that the fallback in [train] does not use,
  points outside of what is searched, replicates with a seed, the sampler "grid" with ranges or with too
  many combinations, nothing to run;
- differences that JSON does not have: 1.0 is a whole number there, dates are strings, nan and inf and
  whole numbers beyond 64 bits do not exist, and true is never equal to 1;
- Python's Unicode tables: which characters are printable, or allowed in an identifier;
- facts beyond the file: whether a file with weights exists, what the models of torchvision can train on
  (``check_models``, which is left out here).
"""

import copy
import random
import tomllib

import pytest

from tests.support import mutated_documents


@pytest.mark.parametrize("cases", [60, pytest.param(150, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", mutated_documents.FILES)
def test_the_loader_and_the_schema_agree_about_mutated_files(name, cases):
    rng = random.Random(name)
    original = tomllib.loads(mutated_documents.FILES[name])
    assert mutated_documents.refusal(original) is None
    accepted = 0
    for case in range(cases):
        document = copy.deepcopy(original)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if document:
                mutated_documents.mutate(document, rng)
        problem = mutated_documents.disagreement(document)
        assert problem is None, (case, problem)
        accepted += mutated_documents.refusal(document) is None
    assert 3 < accepted < cases
