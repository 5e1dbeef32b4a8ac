"""The benchmark of a finished chain: a serving variant timed on one target's model and scored on all of them.

A plain class; `BenchmarkActor` is the same in a Ray actor of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from trainables.benchmark.benchmark import Benchmark, BenchmarkSettings
from trainables.benchmark.lengths import Query, sample_queries
from trainables.benchmark.variants import VariantUnavailable, variant_named
from trainables.encoder import count_parameters, load_tokenizer
from trainables.model import load_task_model
from trainables.stages.base import Workplace
from trainables.stages.evaluate import Evaluate, summary
from trainables.stages.finetune import tokenizer_of
from trainables.store import StageStore

QUERIES = 512  # drawn from the test sets of all languages in proportion to their size


@dataclass(frozen=True)
class CheckpointBenchmark:
    """Measures variants of a chain's models; the first target's model is the one timed.

    `output` is the folder of the stage store; every stage of the chain must be finished.
    """

    output: str
    chain: tuple[Evaluate, ...]
    threads: int
    window_s: float
    device: str = "cpu"

    def run(self, variant: str) -> dict[str, Any]:
        """One variant, timed and then scored by the same way of running; JSON values.

        Keys: those of `Measurement.as_dict`, `timed_task`, `scores` (a summary for each target), `test_score` (their mean over
        targets, in percent), `params_m` and `params_body_m` of the encoder.

        Raises:
            VariantUnavailable: the variant cannot run on this device.
            FileNotFoundError: a stage of the chain is not finished.
        """
        timed = self._time(variant)
        scores = [self._score(evaluate, variant) for evaluate in self.chain]
        return {
            **timed,
            "timed_task": self.chain[0].task.name,
            "scores": {one["task"]: one for one in scores},
            "test_score": sum(one["test_mean"] for one in scores) / len(scores),
        }

    def _time(self, variant: str) -> dict[str, Any]:
        evaluate = self.chain[0]
        tokenizer = tokenizer_of(evaluate.model, self._work())
        pools: list[tuple[str, Sequence[Query]]] = []
        for one in evaluate.sets(self._work()):
            if one.split == "test" and one.language in evaluate.task.languages:
                pools.append((one.language, [feature.rows for feature in one.features]))
        model = load_task_model(self._folder(evaluate), evaluate.task)
        count = count_parameters(model.encoder)
        benchmark = Benchmark(
            model,
            sample_queries(pools, QUERIES, seed=0),
            load_tokenizer(tokenizer).pad_token_id,
            torch.device(self.device),
            threads=self.threads,
            settings=BenchmarkSettings.for_window(self.window_s),
        )
        measured = benchmark.measure(variant)
        context = {"interference_text": str(measured.interference)}
        return {**measured.as_dict(), **context, "params_m": count.total / 1e6, "params_body_m": count.body / 1e6}

    def _score(self, evaluate: Evaluate, variant: str) -> dict[str, Any]:
        model = load_task_model(self._folder(evaluate), evaluate.task)
        forward = variant_named(variant).prepare(model, torch.device(self.device))
        return summary(evaluate.task, evaluate.scores(forward, self._work()))

    def _work(self) -> Workplace:
        return Workplace(StageStore(Path(self.output)), device=torch.device(self.device))

    def _folder(self, evaluate: Evaluate) -> Path:
        found = self._work().store.find(evaluate.model)
        if found is None:
            raise FileNotFoundError(f"{self._work().store.folder(evaluate.model)}: not a finished stage")
        return found.folder


@ray.remote(max_restarts=0, max_concurrency=1)
class BenchmarkActor:
    """A `CheckpointBenchmark` in a process of its own. Never restarted: a broken measurement is redone whole."""

    def __init__(self, benchmark: CheckpointBenchmark) -> None:
        torch.set_num_threads(benchmark.threads)
        self._benchmark = benchmark

    def run(self, variant: str) -> dict[str, Any] | str:
        """The measurement, or why the variant cannot run here."""
        try:
            return self._benchmark.run(variant)
        except VariantUnavailable as error:
            return error.reason
