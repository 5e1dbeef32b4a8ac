"""Cuts batches into micro-batches by their tokens: rows of different lengths take different memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.heads.base import padded_length

Group = Sequence[int]  # batch entries that stay together


@dataclass(frozen=True)
class TokenBudget:
    """The most tokens and rows of a micro-batch. `padded` counts each row as long as the longest of its micro-batch."""

    tokens: int
    rows: int
    padded: bool = True

    def cut(
        self, shares: Sequence[Sequence[Group]], rank: int, lengths: Sequence[int], *, rows: int
    ) -> list[list[int]]:
        """A worker's micro-batches: consecutive entries, at least one group each, as many as of any other worker.

        Each pass of ZeRO 2 and 3 is a collective operation, so the worker that needs most decides their number, which every
        worker finds out from the lengths alone.

        Args:
            shares: the groups of every worker, equally many.
            lengths: of the longest row of each entry, in tokens.
            rows: rows of an entry.
        """
        count = max(len(self._filled(groups, lengths, rows)) for groups in shares)
        parts = self._filled(shares[rank], lengths, rows)
        while len(parts) < count:
            at = max(range(len(parts)), key=lambda index: len(parts[index]))
            half = len(parts[at]) // 2
            parts[at : at + 1] = [parts[at][:half], parts[at][half:]]
        return [[entry for group in part for entry in group] for part in parts]

    def _filled(self, groups: Sequence[Group], lengths: Sequence[int], rows: int) -> list[list[Group]]:
        """The fewest parts of consecutive groups within the budget; a group that exceeds it by itself is a part."""
        parts: list[list[Group]] = []
        entries = total = longest = 0
        for group in groups:
            entries, total = entries + len(group), total + sum(lengths[entry] for entry in group)
            longest = max(longest, *(lengths[entry] for entry in group))
            tokens = rows * (entries * padded_length([range(longest)]) if self.padded else total)
            if not parts or tokens > self.tokens or rows * entries > self.rows:
                parts.append([])
                entries, total = len(group), sum(lengths[entry] for entry in group)
                longest = max(lengths[entry] for entry in group)
            parts[-1].append(group)
        return parts
