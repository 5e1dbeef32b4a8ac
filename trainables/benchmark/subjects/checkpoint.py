"""The benchmark of a finished chain: a serving variant timed on one target's model and scored on all of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from trainables.benchmark.benchmark import Benchmark
from trainables.benchmark.placement import placed
from trainables.benchmark.scenarios.lengths import Query, sample_queries
from trainables.benchmark.scenarios.texts import Texts, pieces_per_word
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import variant_named
from trainables.evaluation import ExampleSet, Score
from trainables.models.encoder import count_parameters, load_tokenizer
from trainables.models.task_model import load_task_model
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate, summary
from trainables.stages.finetune import tokenizer_of
from trainables.store.stage_store import StageStore

QUERIES = 512  # drawn from the test sets of all languages in proportion to their size; more where small ones need them


@dataclass(frozen=True)
class CheckpointBenchmark:
    """Measures variants of a chain's models; the first target's model is the one timed.

    `output` is the folder of the stage store; every stage of the chain must be finished. `examples` is a file for the scores by
    example of the variant that is scored, in the form of a trial's.
    """

    output: str
    chain: tuple[Evaluate, ...]
    threads: int
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    device: str = "cpu"
    examples: str | None = None

    def run(self, variant: str, *, scored: bool = True) -> dict[str, Any]:
        """One variant, timed and then scored by the same way of running; JSON values.

        Keys: those of `Measurement.as_dict`, `timed_task`, `params_m` and `params_body_m` of the encoder; where it is scored,
        `scores` (a summary for each target), `test_score` (their mean over targets, in percent) and
        `test_score_without_english` (the same over the other languages, of targets that have any; None if none has).

        Raises:
            VariantUnavailable: the variant cannot run on this device.
            FileNotFoundError: a stage of the chain is not finished.
            Damaged: a model's files are not what they were.
        """
        timed = {**self._time(variant), "timed_task": self.chain[0].task.name}
        if not scored:
            return timed
        found = [self._score(evaluate, variant) for evaluate in self.chain]
        if self.examples is not None:
            self._write_examples(Path(self.examples), found)
        scores = [summary(evaluate.task, some) for evaluate, some in zip(self.chain, found, strict=True)]
        others = [one["test_mean_without_english"] for one in scores if one["test_mean_without_english"] is not None]
        return {
            **timed,
            "scores": {one["task"]: one for one in scores},
            "test_score": sum(one["test_mean"] for one in scores) / len(scores),
            "test_score_without_english": sum(others) / len(others) if others else None,
        }

    def _time(self, variant: str) -> dict[str, Any]:
        evaluate = self.chain[0]
        folder = self._folder(evaluate)
        start = time.perf_counter()
        model = load_task_model(folder, evaluate.task)
        load_s = time.perf_counter() - start
        self._check(evaluate)
        tokenizer = load_tokenizer(tokenizer_of(evaluate.model, self._work()))
        tests = self._tests(evaluate)
        pools: list[tuple[str, Sequence[Query]]] = [
            (one.language, [feature.rows for feature in one.features]) for one in tests
        ]
        count = count_parameters(model.encoder)
        benchmark = Benchmark(
            model,
            sample_queries(pools, QUERIES, seed=0),
            tokenizer.pad_token_id,
            torch.device(self.device),
            threads=self.threads,
            settings=self.settings,
            texts=Texts.sample(evaluate.task, tokenizer, evaluate.max_length, [one.examples for one in tests]),
            load_s=load_s,
        )
        measured = benchmark.measure(variant).as_dict()
        for one in tests:
            if (pieces := pieces_per_word(one.examples, one.language, tokenizer)) is not None:
                measured["languages"].setdefault(one.language, {})["pieces_per_word"] = pieces
        return {**measured, "params_m": count.total / 1e6, "params_body_m": count.body / 1e6}

    def _tests(self, evaluate: Evaluate) -> list[ExampleSet]:
        """The test sets of the task's languages; pools of candidates are not what a user asks."""
        sets = evaluate.sets(self._work())
        return [one for one in sets if one.split == "test" and one.language in evaluate.task.languages]

    def _score(self, evaluate: Evaluate, variant: str) -> list[Score]:
        model = load_task_model(self._folder(evaluate), evaluate.task)
        self._check(evaluate)
        with placed(self.threads, ()):
            forward = variant_named(variant).prepare(model, torch.device(self.device))
            return evaluate.scores(forward, self._work())

    def _write_examples(self, path: Path, found: Sequence[Sequence[Score]]) -> None:
        table = pd.DataFrame(
            {"task": evaluate.task.name, "split": one.split, "language": one.language, "example": number, **counts.sums}
            for evaluate, scores in zip(self.chain, found, strict=True)
            for one in scores
            if one.split == "test"
            for number, counts in enumerate(one.per_example)
        )
        names = ("task", "split", "language")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        table.astype({**dict.fromkeys(names, "category"), "example": "int32"}).to_parquet(
            unfinished, index=False, compression="zstd"
        )
        os.replace(unfinished, path)

    def _work(self) -> Workplace:
        return Workplace(StageStore(Path(self.output)), device=torch.device(self.device))

    def _folder(self, evaluate: Evaluate) -> Path:
        work = self._work()
        found = work.store.find(evaluate.model)
        if found is None:
            raise FileNotFoundError(f"{work.store.folder(evaluate.model)}: not a finished stage")
        ensure(evaluate.features, work)  # there already, unless the evaluation has never run here
        return found.folder

    def _check(self, evaluate: Evaluate) -> None:
        """Hash what was loaded: after it, so that what loading took is not that of files which have just been read."""
        self._work().store.whole(evaluate.model)
