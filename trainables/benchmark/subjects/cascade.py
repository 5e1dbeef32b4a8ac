"""The benchmark of a cascade: a smaller model answers where it is sure, a larger one elsewhere; timed and scored as served.

Both models are loaded, and prepared by the same serving variant. The larger one sees what the smaller was not sure of, in the
scenarios and when the sets are scored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.benchmark.benchmark import Benchmark, LargerModel
from trainables.benchmark.measurement import CASCADE, FLIPS, Measured
from trainables.benchmark.placement import pinned
from trainables.benchmark.probes.hardware import available_cores
from trainables.benchmark.scenarios.queries import Query, QuerySample, sample_queries
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.benchmark.subjects.served import Served, summary_of, write_served
from trainables.benchmark.subjects.timing import QUERIES, test_sets
from trainables.benchmark.variants import ServedTokens, Variant, variant_named
from trainables.data.examples import Example
from trainables.evaluation import ExampleSet, Forward, Score, predict, predict_alone, score_outputs, with_answers_of
from trainables.heads import HEADS, Feature, Outputs
from trainables.models.encoder import count_parameters, load_tokenizer
from trainables.models.task_model import TaskModel, load_task_model
from trainables.stages.evaluate import Evaluate, summary
from trainables.stages.finetune import root_of, tokenizer_of
from trainables.store.answers import answers_table
from trainables.store.examples import example_scores
from trainables.tasks.base import Task

SMALL = "small"  # a column of the scores by example: 1 where the smaller model answered, 0 where it asked the larger
NOT_TOKENISED = "a cascade is timed on token ids"
NOT_COMPARED = "a cascade's predictions are not compared between batches"


class Cascaded(Variant):
    """How both models of a cascade are served: as `variant` serves each."""

    name = CASCADE

    def __init__(self, variant: Variant) -> None:
        self.variant, self.dtype, self.by_tokens = variant, variant.dtype, variant.by_tokens
        self.depends_on_batch = variant.depends_on_batch

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        return self.variant.prepare(model, device)

    def unavailable(self, device: torch.device) -> str | None:
        return self.variant.unavailable(device)

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return self.variant.shares_weights(model, device)

    def context(self, queries: Sequence[Query]) -> dict[str, Any]:
        return {**self.variant.context(queries), "served_as": self.variant.name}


@dataclass(frozen=True)
class CascadeBenchmark:
    """Measures the cascade of two chains with the same targets: the models of `small`, and those of `large` behind them.

    `thresholds` has the least confidence at which the smaller model answers, by target; the first target, which is timed, must
    have one. Targets without one (retrieval: its index belongs to one model) are served by the smaller model alone.

    A query is a row of the timed task, as in every benchmark. Of a text that is longer than a row, each window is decided on by
    itself when timed, and the whole text when scored; `context.windows` counts such windows among the timed queries.
    """

    small: CheckpointBenchmark
    large: tuple[Evaluate, ...]
    thresholds: tuple[tuple[str, float], ...]

    def run(self, variant: str | Variant, *, scored: bool = True) -> Measured:
        """Time the cascade as the variant serves both models, and score it.

        It adds to the measurement what `CheckpointBenchmark.run` adds, without flips; parameters are those of both models.
        `CASCADE` has the thresholds, `timed_share` (the share of the timed queries that the smaller model answers) and, if
        scored, `share` (the same of test examples, by target and language).

        Raises:
            VariantUnavailable: the variant cannot run on this device.
            FileNotFoundError: a stage of a chain is not finished.
        """
        served_as = variant.variant if isinstance(variant, Cascaded) else variant_named(variant)
        served_as = served_as.for_texts(self._tokens)
        for evaluate in (*self.small.chain, *self.large):
            self.small.folder(evaluate)
        timed, timed_share = self._time(Cascaded(served_as))
        about: dict[str, Any] = {"thresholds": dict(self.thresholds), "timed_share": timed_share}
        if not scored:
            return Measured({**timed, CASCADE: about})
        served = [self._serve(*pair, served_as) for pair in zip(self.small.chain, self.large, strict=True)]
        if self.small.examples is not None:
            write_served(served, Path(self.small.examples))
        about["share"] = {of_task.task: _shares(of_task) for of_task in served if SMALL in of_task.examples}
        return Measured({**timed, CASCADE: about, **summary_of(served)})

    def _time(self, variant: Cascaded) -> tuple[dict[str, Any], float]:
        small, large, work = self.small.chain[0], self.large[0], self.small.work()
        start = time.perf_counter()
        models = [
            load_task_model(self.small.folder(evaluate), evaluate.task, device=work.device)
            for evaluate in (small, large)
        ]
        load_s = time.perf_counter() - start
        for evaluate in (small, large):
            self.small.check(evaluate)
        sample, queries = _queries(test_sets(small, work), test_sets(large, work))
        router = _Router(small.task, dict(self.thresholds)[small.task.name], queries)
        benchmark = Benchmark(
            *(models[0], sample, self._pad_id(small), work.device),
            threads=self.small.threads,
            settings=self.small.settings,
            load_s=load_s,
            larger=LargerModel(
                models[1], tuple(query.large_rows for query in queries), self._pad_id(large), router.unsure
            ),
        )
        measured = benchmark.measure(variant).as_dict()
        measured["unavailable"] |= dict.fromkeys(("tokenise_p50_ms", "end_to_end_p50_ms"), NOT_TOKENISED)
        measured["unavailable"] |= dict.fromkeys((*FLIPS, "flips_examples"), NOT_COMPARED)
        measured["context"]["windows"] = sum(query.windows > 1 for query in queries)
        counts = [count_parameters(model.encoder) for model in models]
        measured |= {"params_m": sum(count.total for count in counts) / 1e6, "timed_task": small.task.name}
        measured["params_body_m"] = sum(count.body for count in counts) / 1e6
        return measured, router.share(sample.pooled)

    def _serve(self, small: Evaluate, large: Evaluate, variant: Variant) -> Served:
        """A target's scores as the cascade serves it."""
        threshold = dict(self.thresholds).get(small.task.name)
        if threshold is None:
            return self.small.serve(small, variant, audited=False)
        task, work = small.task, self.small.work()
        threads = self.small.threads
        with pinned(threads if variant.depends_on_batch else max(threads, available_cores()), ()):
            outputs = small.outputs(self._forward(small, variant), work, alone=variant.depends_on_batch)
            unsure = [_unsure(output, task, threshold) for output in outputs]
            asked = [_subset(of_large, positions) for of_large, positions in zip(large.sets(work), unsure, strict=True)]
            given = self._forward(large, variant), [some for some in asked if some.examples], self._pad_id(large)
            if variant.depends_on_batch:
                answered = predict_alone(*given, device=work.device)
            else:
                answered = predict(*given, share=work.share, device=work.device)
        others = {(score.split, score.language): score for score in score_outputs(answered, task)}
        scores = [
            with_answers_of(score, others[score.split, score.language], positions, task) if positions else score
            for score, positions in zip(score_outputs(outputs, task), unsure, strict=True)
        ]
        prefixes = root_of(small.model).tokenizer.prefixes
        examples = example_scores(scores).assign(**{SMALL: _answered_by_small(scores, unsure)})
        return Served(task.name, summary(task, scores, prefixes), examples, answers_table(scores, task.metric), None)

    def _forward(self, evaluate: Evaluate, variant: Variant) -> Forward:
        device = self.small.work().device
        model = load_task_model(self.small.folder(evaluate), evaluate.task, device=device)
        self.small.check(evaluate)
        return variant.prepare(model, device)

    def _tokens(self) -> ServedTokens:
        """The tokens of every set that is scored; one table for both models, which a cut needs."""
        work, chains = self.small.work(), (*self.small.chain, *self.large)
        for evaluate in chains:
            self.small.folder(evaluate)
        ids = np.concatenate([evaluate.features.token_ids(work) for evaluate in chains])
        return ServedTokens.of(load_tokenizer(tokenizer_of(self.small.chain[0].model, work)), np.unique(ids).tolist())

    def _pad_id(self, evaluate: Evaluate) -> int:
        return int(load_tokenizer(tokenizer_of(evaluate.model, self.small.work())).pad_token_id)


@dataclass(frozen=True)
class _CascadeQuery:
    """A query of the timed task, and the rows that the larger model reads of it; `windows` of its text."""

    example: Example
    feature: Feature
    large_rows: Query
    windows: int


class _Router:
    """Decides which queries the larger model is asked, by the smaller one's confidence; keeps its decisions."""

    def __init__(self, task: Task, threshold: float, queries: Sequence[_CascadeQuery]) -> None:
        self._task, self._head, self._threshold, self._queries = task, HEADS[task.head], threshold, queries
        self._features = [[replace(query.feature, example=0)] for query in queries]
        self._answered: dict[int, bool] = {}

    def unsure(self, index: int, logits: Tensor) -> bool:
        """Whether the smaller model is not sure of a query, from the logits of its rows."""
        values: np.ndarray = logits.numpy()
        if values.ndim == 3:  # a vector for each token: without those of padding
            values = values[:, : self._features[index][0].length]
        outputs = Outputs("test", "", [self._queries[index].example], self._features[index], [values])
        sure = self._head.confidence(outputs, self._task)
        assert sure is not None  # heads that cascade have one
        self._answered[index] = sure[0] >= self._threshold
        return not self._answered[index]

    def share(self, indices: Sequence[int]) -> float:
        """The share of the queries that the smaller model answered, of those that were served."""
        decided = [self._answered[index] for index in indices if index in self._answered]
        return sum(decided) / len(decided)


def _queries(small: Sequence[ExampleSet], large: Sequence[ExampleSet]) -> tuple[QuerySample, list[_CascadeQuery]]:
    """The sample that a benchmark of the smaller model draws, and what each of its queries is."""
    known: dict[tuple[str, Query], _CascadeQuery] = {}
    for of_small, of_large in zip(small, large, strict=True):
        by_example: dict[int, list[Feature]] = {}
        for feature in of_large.features:
            by_example.setdefault(feature.example, []).append(feature)
        windows: dict[int, int] = {}
        counts = np.bincount([feature.example for feature in of_small.features])
        for feature in of_small.features:
            number = windows[feature.example] = windows.get(feature.example, -1) + 1
            others = by_example[feature.example]  # another tokenizer may need fewer windows
            query = _CascadeQuery(
                of_small.examples[feature.example],
                feature,
                others[min(number, len(others) - 1)].rows,
                int(counts[feature.example]),
            )
            known.setdefault((of_small.language, feature.rows), query)
    pools = [(of_small.language, [feature.rows for feature in of_small.features]) for of_small in small]
    sample = sample_queries(pools, QUERIES, seed=0)
    return sample, [known[key] for key in zip(sample.languages, sample.queries, strict=True)]


def _unsure(outputs: Outputs[Any], task: Task, threshold: float) -> list[int]:
    """The examples whose prediction the smaller model is not sure of."""
    sure = HEADS[task.head].confidence(outputs, task)
    assert sure is not None  # heads that cascade have one, and score every example
    return [index for index, value in enumerate(sure) if value < threshold]


def _subset(of_set: ExampleSet, positions: Sequence[int]) -> ExampleSet:
    """Some of a set's examples with their features."""
    numbers = {position: number for number, position in enumerate(positions)}
    features = [
        replace(feature, example=numbers[feature.example]) for feature in of_set.features if feature.example in numbers
    ]
    return replace(of_set, examples=[of_set.examples[position] for position in positions], features=features)


def _answered_by_small(scores: Sequence[Score], unsure: Sequence[Sequence[int]]) -> np.ndarray:
    """1 or 0 for each example of all sets, in their order."""
    flags = [np.ones(len(score.per_example)) for score in scores]
    for of_set, positions in zip(flags, unsure, strict=True):
        of_set[list(positions)] = 0.0
    return np.concatenate(flags)


def _shares(served: Served) -> Mapping[str, float]:
    """By language, the share of the test examples that the smaller model answered."""
    tests = served.examples[served.examples["split"] == "test"]
    return {str(language): float(share) for language, share in tests.groupby("language")[SMALL].mean().items()}
