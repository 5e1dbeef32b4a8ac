"""Scores a model on a task. Rows of all languages are batched by length together, and identical rows are encoded once."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from trainables.data.examples import Example
from trainables.heads import HEADS, Feature, Outputs
from trainables.heads.base import pad_rows, padded_length
from trainables.metrics import METRICS, Counts
from trainables.out_of_memory import is_out_of_memory
from trainables.tasks.base import Task
from trainables.training.batching import Share

Forward = Callable[[Tensor, Tensor], Tensor]  # input ids and attention mask of shape (rows, length) to logits
Observer = Callable[[int, int], None]  # rows of this worker that are encoded, and all of its rows
logger = logging.getLogger(__name__)
TOKENS_A_BATCH = 4096  # padded; without gradients, batches can be larger than in training


@dataclass(frozen=True)
class ExampleSet:
    """One split of a task in one language, with its features."""

    split: str
    language: str
    examples: Sequence[Example]
    features: Sequence[Feature]


@dataclass(frozen=True)
class Answer:
    """What the sums of an example are counted from, as JSON values; texts of candidates are replaced by their names."""

    id: str
    prediction: Any
    reference: Any


@dataclass(frozen=True)
class Score:
    """A set's score in percent, its named parts (F1 and EM, precision and recall), and the sums they are computed from.

    `examples` is the number of scored examples; `per_example` has their sums in order, `answers` what these are counted from,
    and `confidence` how sure the model is of each, if its head cascades (else it is empty). `constant`: the model gives all of
    them one answer, although they differ. Such a score says how often that answer is right, and nothing about the model.
    """

    split: str
    language: str
    value: float
    parts: dict[str, float]
    examples: int
    counts: Counts
    per_example: tuple[Counts, ...]
    constant: bool = False
    answers: tuple[Answer, ...] = ()
    confidence: tuple[float, ...] = ()


def score_sets(
    forward: Forward,
    task: Task,
    sets: Sequence[ExampleSet],
    pad_id: int,
    *,
    share: Share,
    device: torch.device,
    lockstep: bool = False,
    observe: Observer = lambda done, total: None,
) -> list[Score]:
    """A score for each set with something to score; sets of candidates only are searched and get none.

    The workers of a group share the work, and each returns all scores. With `lockstep`, all workers take part in every forward
    pass (ZeRO 3), so each of them scores everything.
    """
    outputs = predict(forward, sets, pad_id, share=share, device=device, lockstep=lockstep, observe=observe)
    return score_outputs(outputs, task)


def score_outputs(outputs: Sequence[Outputs[Any]], task: Task) -> list[Score]:
    """As `score_sets`, from the model's outputs for the sets."""
    head, metric = HEADS[task.head], METRICS[task.metric]
    scores = []
    decoded = zip(outputs, head.decode_all(outputs, task), head.candidate_names(outputs), strict=True)
    for output, predictions, names in decoded:
        references = [head.reference(example, task) for example in output.examples]
        counts = tuple(
            metric.count(prediction, reference, output.language)
            for prediction, reference in zip(predictions, references, strict=True)
            if reference is not None
        )
        if counts:
            total = sum(counts, Counts())
            value, parts = metric.value(total), metric.parts(total)
            constant = _is_constant(predictions, references)
            answers = tuple(
                Answer(example.id, _named(prediction, names), _named(reference, names))
                for example, prediction, reference in zip(output.examples, predictions, references, strict=True)
                if reference is not None
            )
            sure = (head.confidence(output, task) or []) if head.cascades else []
            confidence = tuple(
                value for value, reference in zip(sure, references, strict=bool(sure)) if reference is not None
            )
            scores.append(
                Score(
                    *(output.split, output.language, value, parts, len(counts), total, counts),
                    constant=constant,
                    answers=answers,
                    confidence=confidence,
                )
            )
    return scores


def with_answers_of(score: Score, other: Score, positions: Sequence[int], task: Task) -> Score:
    """A set's score with the examples at these positions answered as `other` has them, which scores these alone, in order.

    `confidence` stays that of the first model.
    """
    if not positions:
        return score
    metric, counts, answers = METRICS[task.metric], list(score.per_example), list(score.answers)
    for position, of_other, answer in zip(positions, other.per_example, other.answers, strict=True):
        counts[position], answers[position] = of_other, answer
    total = sum(counts, Counts())
    return dataclasses.replace(
        score,
        value=metric.value(total),
        parts=metric.parts(total),
        counts=total,
        per_example=tuple(counts),
        answers=tuple(answers),
        constant=_is_constant([answer.prediction for answer in answers], [answer.reference for answer in answers]),
    )


def _named(answer: Any, names: Mapping[str, str]) -> Any:
    """A prediction or reference as a JSON value, in which candidates' texts are replaced by their names."""
    if isinstance(answer, (list, tuple)):
        return [names.get(item, item) for item in answer]
    return names.get(answer, answer) if isinstance(answer, str) else answer


def _is_constant(predictions: Sequence[object], references: Sequence[object | None]) -> bool:
    """Whether all scored examples get one answer, and not all want the same. Each tag of a sentence is an answer."""
    scored = [pair for pair in zip(predictions, references, strict=True) if pair[1] is not None]
    given, wanted = ({repr(answer) for pair in scored for answer in _answers(pair[side])} for side in (0, 1))
    return len(scored) > 1 and len(given) == 1 < len(wanted)


def _answers(prediction: object) -> Sequence[object]:
    return prediction if isinstance(prediction, (list, tuple)) and prediction else [prediction]


def predict(
    forward: Forward,
    sets: Sequence[ExampleSet],
    pad_id: int,
    *,
    share: Share,
    device: torch.device,
    lockstep: bool = False,
    observe: Observer = lambda done, total: None,
) -> list[Outputs[Any]]:
    """The model's outputs for all sets, computed over their distinct rows in batches of similar length."""
    features = [list(scored.features) for scored in sets]
    indices: dict[tuple[int, ...], int] = {}
    for row in (row for of_set in features for feature in of_set for row in feature.rows):
        indices.setdefault(row, len(indices))
    rows = list(indices)
    share = Share(0, 1, 1) if lockstep else share
    by_row = _forward_rows(forward, rows, pad_id, share=share, device=device, lockstep=lockstep, observe=observe)
    logits = _gather(by_row, [len(row) for row in rows], share, device)
    return [
        Outputs(
            *(scored.split, scored.language, scored.examples, of_set),
            [_stacked(feature, indices, logits) for feature in of_set],
        )
        for scored, of_set in zip(sets, features, strict=True)
    ]


def predict_alone(
    forward: Forward,
    sets: Sequence[ExampleSet],
    pad_id: int,
    *,
    device: torch.device,
    observe: Observer = lambda done, total: None,
) -> list[Outputs[Any]]:
    """As `predict`, in one process, each feature alone and without padding, as a single query is served.

    For functions whose logits of a row depend on the batch that it is in.
    """
    features = [feature for scored in sets for feature in scored.features]
    logits: dict[tuple[tuple[int, ...], ...], np.ndarray] = {}
    for number, feature in enumerate(features, 1):
        if feature.rows not in logits:
            values = _forward_batch(forward, feature.rows, pad_id, device, padded_to=feature.length)
            logits[feature.rows] = values.copy()
        observe(number, len(features))
    return [
        Outputs(
            *(scored.split, scored.language, scored.examples, list(scored.features)),
            [logits[feature.rows] for feature in scored.features],
        )
        for scored in sets
    ]


def _stacked(feature: Feature, indices: dict[tuple[int, ...], int], logits: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of a feature's rows, which have one shape: a feature with values for each token has a single row."""
    return np.stack([logits[indices[row]] for row in feature.rows])


def batches_by_length(lengths: Sequence[int], indices: Sequence[int], tokens: int = TOKENS_A_BATCH) -> list[list[int]]:
    """The indices in batches of similar length, longest first, of at most `tokens` padded tokens."""
    batches: list[list[int]] = []
    for index in sorted(indices, key=lambda index: -lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _forward_rows(
    forward: Forward,
    rows: Sequence[tuple[int, ...]],
    pad_id: int,
    *,
    share: Share,
    device: torch.device,
    lockstep: bool,
    observe: Observer,
) -> dict[int, np.ndarray]:
    """Logits by row for this worker's share; values for each token are cut to the row's own length.

    Where a batch does not fit on the device, it and all later ones are cut to half of its tokens. In lockstep that is an
    error: a worker with other batches would leave the rest waiting in a collective.
    """
    lengths = [len(row) for row in rows]
    logits: dict[int, np.ndarray] = {}
    own = range(share.rank, len(rows), share.workers)
    left = batches_by_length(lengths, own)[::-1]
    while left:
        indices = left.pop()
        try:
            batch = [rows[index] for index in indices]
            output = _forward_batch(forward, batch, pad_id, device, padded_to=padded_length(batch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or lockstep or len(indices) == 1:
                raise
            reason, output = str(error), None  # the error's frames reference the batch
        if output is None:
            tokens = len(indices) // 2 * lengths[indices[0]]
            logger.warning("scoring %d rows at once: %s; continuing with %d tokens", len(indices), reason, tokens)
            left = batches_by_length(lengths, [*indices, *itertools.chain(*left)], tokens)[::-1]
            continue
        for index, values in zip(indices, output, strict=True):
            logits[index] = (values[: lengths[index]] if output.ndim == 3 else values).copy()
        observe(len(logits), len(own))
    return logits


def _forward_batch(
    forward: Forward, rows: Sequence[tuple[int, ...]], pad_id: int, device: torch.device, *, padded_to: int
) -> np.ndarray:
    """Logits of some rows, padded to one length."""
    input_ids = pad_rows(rows, pad_id, padded_to)
    real = torch.arange(padded_to)[None] < torch.tensor([len(row) for row in rows])[:, None]
    # Not `inference_mode`: under ZeRO 3 the hooks of a model in training gather weights here that later steps use.
    with torch.no_grad():
        output: np.ndarray = forward(input_ids.to(device), real.long().to(device)).float().cpu().numpy()
    return output


def _gather(own: dict[int, np.ndarray], lengths: Sequence[int], share: Share, device: torch.device) -> list[np.ndarray]:
    """The logits of all workers' rows in order; `lengths` are those of the rows in tokens.

    As flat tensors, of which every worker knows the sizes of all: `all_gather_object` would pickle each array, and hold all
    workers' pickles, padded to the longest, on the device at once.
    """
    if share.workers == 1:
        return [own[index] for index in range(len(lengths))]
    # Values of a row: a vector, or one for each of its tokens. A worker without any row does not know which, nor how long.
    some = next(iter(own.values()), None)
    shape = torch.tensor([0, 0] if some is None else [some.ndim, some.shape[-1]], device=device)
    dist.all_reduce(shape, op=dist.ReduceOp.MAX)
    dimensions, width = shape.tolist()
    tokens = np.asarray(lengths, dtype=np.int64) if dimensions == 2 else np.ones(len(lengths), dtype=np.int64)
    by_worker = [range(worker, len(lengths), share.workers) for worker in range(share.workers)]
    merged: dict[int, np.ndarray] = {}
    for worker, indices in enumerate(by_worker):
        if not indices:  # fewer rows than workers
            continue
        flat = torch.empty(int(tokens[list(indices)].sum()) * width, device=device)
        if worker == share.rank and own:
            flat.copy_(torch.from_numpy(np.concatenate([own[index].reshape(-1) for index in indices])))
        dist.broadcast(flat, src=worker)
        ends = np.cumsum(tokens[list(indices)]) * width
        parts = np.split(flat.cpu().numpy(), ends[:-1])
        for index, part in zip(indices, parts, strict=True):
            merged[index] = part.reshape(-1, width) if dimensions == 2 else part
    return [merged[index] for index in range(len(lengths))]
