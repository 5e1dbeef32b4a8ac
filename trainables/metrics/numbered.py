"""Answers in words with their words numbered: no text remains, and every score stays what it was.

Question answering compares normalised texts token by token. Which words they are does not matter, only which are equal, so the
tokens of a question's answers can be replaced by `w0`, `w1` and so on. Normalisers leave such words as they are, and the metric
counts the same sums from them. A hash of each token would do as well, but whoever has a dictionary can look the tokens up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


def numbered(
    prediction: str, reference: Sequence[str], *, language: str, normaliser: Callable[[str, str], str]
) -> tuple[str, list[str]]:
    """A question's prediction and reference answers with equal tokens numbered equally, in the order they first occur."""
    words: dict[str, str] = {}

    def hide(text: str) -> str:
        return " ".join(words.setdefault(token, f"w{len(words)}") for token in normaliser(text, language).split())

    return hide(prediction), [hide(answer) for answer in reference]
