"""Which code a custom objective has: a fingerprint that changes when its function is edited."""

import hashlib
import inspect
from collections.abc import Iterator
from types import CodeType


def fingerprint(objective: object) -> str | None:
    """Return a hash of a function's bytecode, constants and names, also of the functions defined in it.

    Where it stands does not count, nor do comments. What it calls elsewhere is not followed.

    Args:
        objective: The function. Of any other callable the code is not known.

    Returns:
        Hexadecimal digits, the same in every process with one version of Python; None if not known.
    """
    if not inspect.isfunction(objective):
        return None
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(objective.__code__):
        digest.update(part + b"\0")
    return digest.hexdigest()


def _parts(code: CodeType) -> Iterator[bytes]:
    yield code.co_code
    yield repr((code.co_names, code.co_varnames, code.co_cellvars, code.co_freevars)).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts(constant)
        elif isinstance(constant, frozenset):  # of ``in {...}``; its order differs between processes
            yield repr(sorted(map(repr, constant))).encode()
        else:
            yield repr(constant).encode()
