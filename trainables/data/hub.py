"""Access to data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.data.source import DataError, Row


def hub_errors() -> tuple[type[Exception], ...]:
    """What a request to the hub raises when the hub does not answer or has no such repository."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's own

    return HTTPError, OSError


def current_commit(dataset: str) -> str:
    """The newest commit of a data set.

    Raises:
        DataError: the hub does not answer.
    """
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(dataset).sha)
    except Exception as error:  # the client has many layers; whatever one of them raises, the remedy is the same
        raise DataError(dataset, None, f"the hub does not answer ({error}); give files with --data-root") from error


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
            streamed = load_dataset(dataset, config, split=split, revision=revision, streaming=True)
            return list(streamed.take(row_limit))
        rows: Iterable[Row] = load_dataset(dataset, config, split=split, revision=revision)
    except Exception as error:  # as in `current_commit`
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(dataset, None, f"cannot be read from the hub ({reason}); or give --data-root") from error
    return rows
