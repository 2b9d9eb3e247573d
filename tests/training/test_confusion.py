"""The confusion matrix that is stored with weights."""

import numpy as np
import pytest
from pydantic import ValidationError

from hpo.training.confusion import Confusion


def test_a_matrix_survives_its_json_and_empty_cells_are_not_stored():
    matrix_KK = np.zeros((1000, 1000), np.int64)
    matrix_KK[3, 999], matrix_KK[0, 0], matrix_KK[999, 0] = 2, 5, 1
    names = [f"class {k}" for k in range(1000)]
    stored = Confusion.from_matrix("test", names, matrix_KK).model_dump_json()
    read = Confusion.model_validate_json(stored)
    assert read.split == "test"
    assert read.classes == tuple(names)
    assert np.array_equal(read.matrix(), matrix_KK)
    assert len(read.cells) == 3


def test_a_name_that_is_not_utf_8_can_be_stored():
    found = Confusion.from_matrix("valid", ["caf\udce9", "b"], np.eye(2, dtype=np.int64))
    assert Confusion.model_validate_json(found.model_dump_json()).classes == ("caf\\udce9", "b")


@pytest.mark.parametrize("cell", [(0, 2, 1), (2, 0, 1), (0, 0, -1), (-1, 0, 1)])
def test_a_cell_outside_the_matrix_is_refused(cell):
    with pytest.raises(ValidationError):
        Confusion(split="valid", classes=("a", "b"), cells=(cell,))
