"""Whatever a store says, commands and the dashboard touch no file that is not their study's own."""

from tests import mutated_attributes


def test_changed_stores_break_nothing_and_reach_no_other_file():
    with mutated_attributes.open_store("sqlite") as store:
        broken = list(mutated_attributes.run_cases(store, 0, range(60)))
    assert not broken, "\n".join(["seed/case: what broke", *broken])
