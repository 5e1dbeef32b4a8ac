"""Accuracy, and F1 over the labelled spans of a tagged sentence."""

from __future__ import annotations

from collections.abc import Sequence

from trainables.metrics.base import Counts, Metric, micro_f1, overlap, precision_recall


def _count_correct(prediction: object, reference: object, language: str) -> Counts:
    return Counts({"correct": float(prediction == reference), "total": 1.0})


def _accuracy(counts: Counts) -> float:
    return 100.0 * counts["correct"] / counts["total"]


def _count_spans(prediction: Sequence[str], reference: Sequence[str], language: str) -> Counts:
    """Exact-match spans of one sentence, as seqeval finds them."""
    from seqeval.metrics.sequence_labeling import get_entities  # imports scikit-learn, which takes a second

    if len(prediction) != len(reference):
        raise ValueError(f"span_f1: {len(prediction)} tags predicted for a sentence of {len(reference)} words")
    return overlap(*(set(get_entities([_prefixed(tag) for tag in tags])) for tags in (prediction, reference)))


def _prefixed(tag: str) -> str:
    """The tag with an IOB2 prefix, which part-of-speech tags lack although XTREME scores UDPOS with seqeval.

    Equal neighbouring tags then form one span, except SCONJ and SYM, whose first letter seqeval takes for a prefix. This is
    the behaviour of seqeval 0.0.12, which gives the UDPOS score in XTREME's `evaluate_test.py`. Later versions (0.0.19, 1.x)
    drop the first letter from the type and confuse CCONJ with SCONJ.
    """
    if tag == "O" or tag.startswith(("B-", "I-", "E-", "S-")):
        return tag
    return f"{tag[0]}-{tag}" if tag[0] in "BIES" else f"I-{tag}"


ACCURACY = Metric("accuracy", _count_correct, _accuracy)
# Micro F1 over spans, as `seqeval.metrics.f1_score`.
SPAN_F1 = Metric("span_f1", _count_spans, micro_f1, precision_recall)
