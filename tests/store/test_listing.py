"""What completion reads of a store."""

from hpo.store import listing, studies
from tests.support.lease_worker import NAME
from tests.support.stored_study import make_definition


def test_studies_of_hpo_and_their_trials_are_listed(url, storage):
    assert listing.list_studies(url) == []
    studies.create_study(storage, make_definition(2), "")
    storage.create_new_study([storage.get_study_directions(1)[0]], "of-another-tool")
    assert listing.list_studies(url) == [NAME] == studies.study_names(storage)
    assert listing.list_trials(url, NAME) == [0, 1]
    assert listing.list_trials(url, "absent") == []
