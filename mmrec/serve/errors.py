"""What a service answers when it cannot give what was asked for."""

from __future__ import annotations

from typing import ClassVar

from mmrec.errors import ConfigError, DataError, MMRecError


class ServiceError(MMRecError):
    """An error with an HTTP status of its own.

    Attributes:
        status: Of the answer.
        headers: Of the answer.
    """

    status: ClassVar[int]
    headers: ClassVar[dict[str, str]] = {}


class NotFoundError(ServiceError):
    """An id or a path that there is not."""

    status = 404


class KeyMissingError(ServiceError):
    """No API key, or an unknown one."""

    status = 401
    headers: ClassVar = {"WWW-Authenticate": "Bearer"}


class TooLargeError(ServiceError):
    """A body larger than permitted."""

    status = 413
    headers: ClassVar = {"Connection": "close"}


class SlowClientError(ServiceError):
    """A body that did not come in time."""

    status = 408
    headers: ClassVar = {"Connection": "close"}


class BusyError(ServiceError):
    """More requests than can be answered, or a service that is stopping."""

    status = 503
    headers: ClassVar = {"Retry-After": "1"}


class UnavailableError(ServiceError):
    """A database that does not answer."""

    status = 503
    headers: ClassVar = {"Retry-After": "5"}


class TooSlowError(ServiceError):
    """An answer that took too long."""

    status = 504


def status_of(error: MMRecError) -> int:
    """The HTTP status of an error: whatever a request cannot cause is a fault of the service."""
    if isinstance(error, ServiceError):
        return error.status
    return 400 if isinstance(error, ConfigError | DataError) else 500
