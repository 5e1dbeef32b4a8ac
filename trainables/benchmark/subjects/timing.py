"""Timing a task's model on the queries of its test sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainables.benchmark.benchmark import Benchmark
from trainables.benchmark.scenarios.queries import Query, sample_queries
from trainables.benchmark.scenarios.texts import Texts, tokens_per_word
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import Variant
from trainables.evaluation import ExampleSet
from trainables.heads import HEADS
from trainables.models.encoder import count_parameters, load_tokenizer
from trainables.models.task_model import TaskModel
from trainables.stages.base import Workplace
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import root_of, tokenizer_of

QUERIES = 512  # from the test sets of all languages in proportion to their size; more if small languages need them


def time_task(
    model: TaskModel,
    evaluate: Evaluate,
    variant: Variant,
    *,
    work: Workplace,
    threads: int,
    settings: BenchmarkSettings,
    load_s: float,
) -> dict[str, Any]:
    """The measurement of a variant of the model that `evaluate` scores, with `timed_task` and the encoder's parameters.

    The features of the evaluation's sets must be in the store.

    Raises:
        VariantUnavailable: the variant cannot run on this device.
    """
    tests = test_sets(evaluate, work)
    tokenizer = load_tokenizer(tokenizer_of(evaluate.model, work))
    pools: list[tuple[str, Sequence[Query]]] = [
        (test.language, [feature.rows for feature in test.features]) for test in tests
    ]
    head, prefixes = HEADS[evaluate.task.head], root_of(evaluate.model).tokenizer.prefixes
    read = [head.prefixed(test.examples, prefixes) for test in tests]
    benchmark = Benchmark(
        model,
        sample_queries(pools, QUERIES, seed=0),
        tokenizer.pad_token_id,
        work.device,
        threads=threads,
        settings=settings,
        texts=Texts.sample(evaluate.task, tokenizer, evaluate.max_length, read),
        load_s=load_s,
    )
    measured = benchmark.measure(variant).as_dict()
    for test in tests:
        if (tokens := tokens_per_word(test.examples, test.language, tokenizer)) is not None:
            measured["languages"].setdefault(test.language, {})["pieces_per_word"] = tokens
    count = count_parameters(model.encoder)
    return {
        **measured,
        "params_m": count.total / 1e6,
        "params_body_m": count.body / 1e6,
        "timed_task": evaluate.task.name,
    }


def test_sets(evaluate: Evaluate, work: Workplace) -> list[ExampleSet]:
    """The test sets of the task's languages; users do not send pools of candidates."""
    return [
        scored
        for scored in evaluate.sets(work)
        if scored.split == "test" and scored.language in evaluate.task.languages
    ]
