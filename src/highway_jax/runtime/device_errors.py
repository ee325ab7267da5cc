"""Errors of devices, in one type."""

import contextlib
import re
from collections.abc import Iterator

from jax.errors import JaxRuntimeError

_STATUS = re.compile(
    r"(CANCELLED|UNKNOWN|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|FAILED_PRECONDITION|ABORTED"
    r"|INTERNAL|UNAVAILABLE|DATA_LOSS): "
)


@contextlib.contextmanager
def in_one_type() -> Iterator[None]:
    """Raises errors of devices within the block as `JaxRuntimeError`.

    From the second call of a compiled function on, jax raises them as `ValueError`, whose text
    begins with the status.
    """
    try:
        yield
    except ValueError as error:
        if not _STATUS.match(str(error)):
            raise
        raise JaxRuntimeError(str(error)) from error
