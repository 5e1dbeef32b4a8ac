"""Errors that end a run, and how they are worded: refusals, failures of the storage, and the cause of any other error."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from study.redact import redacted
from trainables.store.bucket.location import shown, url_of
from trainables.store.stage_store import OutputMissing

PROBE_BYTES = 2**20
_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
# Where a path of the output folder is meant: a folder is where a file should be, or a file where a folder should, or no access.
_IN_THE_WAY = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EACCES, errno.EPERM, errno.ELOOP}
# safetensors and PyTorch raise their own error classes, with or without the system's message.
_WORDS = re.compile(
    rf"\(os error ({'|'.join(str(int(number)) for number in sorted(_ERRORS))})\)"
    rf"|{'|'.join(re.escape(os.strerror(number)) for number in sorted(_ERRORS))}"
    r"|PytorchStreamWriter failed|unexpected pos \d+ vs \d+|iostream error|file write failed"
)


class CannotRun(RuntimeError):
    """The study cannot start here. Raised before any work; the message names the way out."""


class StorageFailed(RuntimeError):
    """The output folder is no longer writable, or its bucket does not answer. Finished work is kept."""

    def __init__(self, reason: object, output: Path) -> None:
        mend = "make the folder writable"
        if url_of(output) is not None:
            full = os.strerror(errno.ENOSPC) in str(reason)
            mend = f"make space on the disk of {output}" if full else "check the bucket"
        super().__init__(
            f"--output {shown(output)} cannot be written: {reason}. Finished work is kept; {mend} and run the same command "
            "again to resume"
        )


def joined(problems: Iterable[str]) -> str:
    """Several problems as one message, each on a line that starts with "error: " once the command line prints the message."""
    return "\nerror: ".join(problems)


def causes_of(error: BaseException) -> list[BaseException]:
    """The error, those of a group's workers, and what Ray or Python wrapped in them; the innermost last."""
    attributes = ("cause", "__cause__", "health_check_failure", "controller_failure")
    causes = [error, *getattr(error, "worker_failures", {}).values()]
    for cause in causes:  # the list grows during the loop
        inner = [getattr(cause, name, None) for name in attributes]
        causes += [error for error in inner if isinstance(error, BaseException) and error not in causes]
    return causes


def reason_of(error: BaseException) -> str:
    """The innermost cause in one line."""
    cause = getattr(error, "cause", None) or error
    return redacted(f"{type(cause).__name__}: {cause}".strip().splitlines()[-1])[:500]


def storage_problem(error: BaseException, output: Path) -> str | None:
    """The storage failure behind an error, in one line; None if there is none and the output folder is writable."""
    for cause in causes_of(error):
        if isinstance(cause, OutputMissing) or (isinstance(cause, OSError) and cause.errno in _ERRORS):
            return reason_of(cause)
        if isinstance(cause, OSError) and cause.errno in _IN_THE_WAY and _is_within(output, cause):
            return reason_of(cause)
        if match := _WORDS.search(str(cause)):
            line = next(line for line in str(cause).splitlines() if match[0] in line)
            return redacted(f"{type(cause).__name__}: {line.strip()}")[:500]
    return unwritable(output)


def _is_within(output: Path, error: OSError) -> bool:
    """Whether the error names a path of the output folder."""
    paths = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return any(Path(path).absolute().is_relative_to(output.absolute()) for path in paths)


def unwritable(output: Path) -> str | None:
    """Why no file of 1 MiB can be written to the folder; None if one can."""
    try:
        with tempfile.NamedTemporaryFile(dir=output, prefix=".probe-") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return reason_of(error)
    return None
