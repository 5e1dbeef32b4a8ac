"""Access to the Hugging Face hub: its errors, patience where it is busy, and the rows of its data sets.

The hub counts requests by token, or without one by address, and answers 429 beyond its limit; the nodes of a cluster often
share one address.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from trainables.data.source import DataError, Row

T = TypeVar("T")
logger = logging.getLogger(__name__)
# What the hub's client reads: the token, the folder of its cache, and the address of another hub or a mirror.
HUB_VARIABLES = ("HF_TOKEN", "HF_HOME", "HF_ENDPOINT")
BUSY = frozenset({408, 429, 500, 502, 503, 504})  # HTTP statuses after which the same request may succeed
WAITS_S = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)  # the hub counts requests in windows of five minutes
LONGEST_WAIT_S = 300.0


def hub_errors() -> tuple[type[Exception], ...]:
    """What a request to the hub raises when the hub does not answer or has no such repository."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's own

    return HTTPError, OSError


def patient(request: Callable[[], T]) -> T:
    """The result of a request, which is repeated with growing pauses while the hub is busy or out of order.

    A pause is what the hub asks for (Retry-After), if it does. It is lengthened at random, so that processes which were refused
    together do not return together. Any other error, or the last one, is raised as it is.
    """
    for wait_s in WAITS_S:
        try:
            return request()
        except Exception as error:
            busy = _busy_response(error)
            if busy is None:
                raise
            status, asked_s = busy
            pause_s = min(max(wait_s, asked_s), LONGEST_WAIT_S) * random.uniform(1.0, 1.5)
            logger.warning("the hub answers %d; asking again in %.0f s", status, pause_s)
        time.sleep(pause_s)
    return request()


def _busy_response(error: BaseException) -> tuple[int, float] | None:
    """The status and the requested pause in seconds, where an error stems from an answer that says the hub is busy."""
    for cause in _causes(error):
        response: Any = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if status in BUSY:
            asked = str(response.headers.get("Retry-After", ""))
            return status, float(asked) if asked.isdecimal() else 0.0
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it: `datasets` raises errors of its own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _reason(error: BaseException) -> str:
    """Why the hub gave nothing, in a line, with what helps against a limit."""
    busy = _busy_response(error)
    if busy is not None and busy[0] == 429:
        return f"it refused {len(WAITS_S) + 1} requests as too many (429): set HF_TOKEN, whose limit is higher"
    if busy is not None:
        return f"it answered {len(WAITS_S) + 1} times with {busy[0]}"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def current_commit(dataset: str) -> str:
    """The newest commit of a data set.

    Raises:
        DataError: the hub does not answer.
    """
    from huggingface_hub import HfApi

    try:
        return str(patient(lambda: HfApi().dataset_info(dataset)).sha)
    except Exception as error:  # the client has many layers; whatever one of them raises, the remedy is the same
        raise DataError(
            dataset, None, f"the hub does not answer ({_reason(error)}); give files with --data-root"
        ) from error


def load_rows(
    dataset: str, config: str | None, *, split: str, revision: str | None, row_limit: int | None = None
) -> Iterable[Row]:
    """The rows of a split at that commit, or with a limit its first rows.

    Raises:
        DataError: the hub does not answer, or has no such split.
    """
    from datasets import load_dataset

    try:
        if row_limit is not None:
            return patient(
                lambda: list(
                    load_dataset(dataset, config, split=split, revision=revision, streaming=True).take(row_limit)
                )
            )
        rows: Iterable[Row] = patient(lambda: load_dataset(dataset, config, split=split, revision=revision))
    except Exception as error:  # as in `current_commit`
        raise DataError(
            dataset, None, f"cannot be read from the hub ({_reason(error)}); or give --data-root"
        ) from error
    return rows
