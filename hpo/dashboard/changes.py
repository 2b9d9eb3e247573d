"""What a dashboard that may write accepts: notes, files that users add or remove, and deleted studies.

optuna-dashboard could do more: end a running trial with any value, set attributes that hpo reads, create
and rename studies. Here a change is refused unless ``CHANGES`` has the method and the rule of its route.
What its body may be is a model of pydantic: other fields and other types are refused.
"""

from typing import Annotated, Any

import bottle
from optuna_dashboard._bottle_util import parse_data_uri
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

NOT_ALLOWED = (
    "a dashboard started with --read-write changes notes, adds and removes files, and deletes studies; "
    "it changes nothing else"
)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Nothing(_Document):
    """The body of a request that needs none."""


class _Note(_Document):
    """A note, and which version of it this is."""

    version: int = Field(ge=1, lt=2**31)
    body: str


def _check_data_uri(text: str) -> str:
    parse_data_uri(text)  # raises ValueError, also for wrong Base64
    return text


class _File(_Document):
    """A file that a user adds, as a data URI."""

    file: Annotated[str, AfterValidator(_check_data_uri)]
    filename: str = ""


class _Deletion(_Document):
    """How to delete a study."""

    remove_associated_artifacts: bool = True


_STUDY, _FILES = "/api/studies/<study_id:int>", "/api/artifacts/<study_id:int>"
_FILE_ID = "<artifact_id:re:[0-9a-fA-F-]+>"
CHANGES: dict[tuple[str, str], type[_Document]] = {
    ("DELETE", _STUDY): _Deletion,
    ("PUT", f"{_STUDY}/note"): _Note,
    ("PUT", f"{_STUDY}/<trial_id:int>/note"): _Note,
    ("POST", _FILES): _File,
    ("POST", f"{_FILES}/<trial_id:int>"): _File,
    ("DELETE", f"{_FILES}/{_FILE_ID}"): _Nothing,
    ("DELETE", f"{_FILES}/<trial_id:int>/{_FILE_ID}"): _Nothing,
}


def refusal(method: str, rule: str) -> tuple[int, str] | None:
    """Return status and reason if the present request is a change that is not allowed; None if it may pass.

    Args:
        method: The method of the route.
        rule: The route's rule in bottle, the framework of optuna-dashboard.
    """
    if method == "GET":
        return None
    document = CHANGES.get((method, rule))
    if document is None:
        return 403, NOT_ALLOWED
    try:
        document.model_validate(_body())
    except OSError:  # the client sent only a part of it
        return 408, "the request did not arrive in time"
    except bottle.HTTPError as error:  # no JSON
        return int(error.status_code), str(error.body)
    except ValidationError as error:
        return 400, "; ".join(
            f"{'.'.join(map(str, each['loc'])) or 'request'}: {each['msg']}" for each in error.errors()
        )
    return None


def _body() -> Any:
    given = bottle.request.json
    return {} if given is None else given
