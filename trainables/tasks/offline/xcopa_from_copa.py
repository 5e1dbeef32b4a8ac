"""XCOPA trained only on COPA's 400 examples, if Social IQa is unavailable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.tasks.published_task import PublishedTask
from trainables.tasks.xtreme.xcopa import Xcopa


@dataclass(frozen=True)
class XcopaFromCopa(Xcopa):
    before: tuple[PublishedTask, ...] = ()

    name: ClassVar[str] = "xcopa_from_copa"
    source: ClassVar[str] = "XCOPA, trained on COPA without Social IQa"
    reads: ClassVar[frozenset[str]] = frozenset({"copa"})
