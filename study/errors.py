"""Whose an error is: the storage's, a lost machine's, or the program's own; and what it says in one line."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

from study.redact import redacted
from trainables.launch.job import OutputMissing

PROBE_BYTES = 2**20
_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
# safetensors and PyTorch raise errors of their own kinds, with the system's words or none of them.
_WORDS = re.compile(
    rf"\(os error ({'|'.join(str(int(number)) for number in sorted(_ERRORS))})\)"
    rf"|{'|'.join(re.escape(os.strerror(number)) for number in sorted(_ERRORS))}"
    r"|PytorchStreamWriter failed|unexpected pos \d+ vs \d+|iostream error|file write failed"
)


class StorageFailed(RuntimeError):
    """The output folder takes nothing any more; nothing that was finished is lost."""

    def __init__(self, reason: object, output: Path) -> None:
        super().__init__(
            f"--output {output} cannot be written: {reason}. What is finished is kept; when it can be, the same command goes on"
        )


def causes_of(error: BaseException) -> list[BaseException]:
    """The error, those of a group's workers, and what Ray or Python wrapped in them; the innermost last."""
    found = [error, *getattr(error, "worker_failures", {}).values()]
    for one in found:  # grows on the way
        inner = [
            getattr(one, name, None) for name in ("cause", "__cause__", "health_check_failure", "controller_failure")
        ]
        found += [cause for cause in inner if isinstance(cause, BaseException) and cause not in found]
    return found


def reason_of(error: BaseException) -> str:
    """The innermost cause in one line."""
    cause = getattr(error, "cause", None) or error
    return redacted(f"{type(cause).__name__}: {cause}".strip().splitlines()[-1])[:500]


def storage_problem(error: BaseException, output: Path) -> str | None:
    """What of an error is the storage's, in one line; None if the output folder can be written and nothing says otherwise."""
    for one in causes_of(error):
        if isinstance(one, OutputMissing) or (isinstance(one, OSError) and one.errno in _ERRORS):
            return reason_of(one)
        if found := _WORDS.search(str(one)):
            line = next(line for line in str(one).splitlines() if found[0] in line)
            return redacted(f"{type(one).__name__}: {line.strip()}")[:500]
    return unwritable(output)


def unwritable(output: Path) -> str | None:
    """Why a folder takes no file of a megabyte; None if it does."""
    try:
        with tempfile.NamedTemporaryFile(dir=output, prefix=".probe-") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return reason_of(error)
    return None
