"""Where a bucket's study is on a node's own disk: the work folder, whose path names the bucket.

`s3://bucket/studies/x` is worked on in `<parent>/xstilts-buckets/s3/bucket/studies/x`. Jobs carry that path as they carry any
output folder, and every node finds the bucket in it, with no file that would have to exist there first.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

SCHEMES = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
WORK_VARIABLE = "XSTILTS_WORK"  # the folder on every node's own disk in which work folders are; a cache unless set
_MARK = "xstilts-buckets"
_PART = re.compile(r"[\w.=+-]+")


def is_url(text: str) -> bool:
    """Whether the text names a bucket and not a path."""
    return text.partition("://")[0] in SCHEMES and "://" in text


def work_folder(url: str) -> Path:
    """The folder on this machine in which the study at the URL is worked on.

    Raises:
        ValueError: it is not the URL of a prefix in a bucket; the message says why.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{url!r} is not a valid URL ({error})") from error
    if "@" in parts.netloc:
        raise ValueError("a bucket's URL holds no user: credentials come from the environment")
    names = [parts.netloc, *parts.path.strip("/").split("/")]
    if parts.query or parts.fragment or not all(_PART.fullmatch(name) and name.strip(".") for name in names):
        raise ValueError(
            f"{url!r}: a bucket and a prefix in it are needed, as in {parts.scheme}://bucket/studies/first, of letters, digits "
            "and . _ - + ="
        )
    parent = os.environ.get(WORK_VARIABLE) or Path.home() / ".cache" / "xstilts"
    return Path(parent).absolute().joinpath(_MARK, parts.scheme, *names)


def url_of(folder: Path) -> str | None:
    """The URL of the bucket's prefix that the folder is the work folder of; None for any other folder."""
    parts = folder.absolute().parts
    if _MARK not in parts:
        return None
    scheme, *names = parts[parts.index(_MARK) + 1 :] or ("",)
    return f"{scheme}://{'/'.join(names)}" if scheme in SCHEMES and len(names) >= 2 else None


def shown(folder: Path) -> str:
    """An output folder as its user named it: the URL of a bucket, or the path."""
    return url_of(folder) or str(folder)
