"""The benchmark of a finished chain: a variant timed on the first target's model and scored on all targets.

A second chain of the same shape can be scored beside it, as served by the same variant, without being timed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.benchmark.benchmark import Benchmark
from trainables.benchmark.flips import Flips, count_flips, summarised
from trainables.benchmark.measurement import Measured
from trainables.benchmark.placement import pinned
from trainables.benchmark.probes.hardware import available_cores
from trainables.benchmark.scenarios.queries import Query, sample_queries
from trainables.benchmark.scenarios.texts import Texts, tokens_per_word
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import ServedTokens, Variant, variant_named
from trainables.evaluation import ExampleSet, Score, score_outputs
from trainables.heads import HEADS
from trainables.models.encoder import count_parameters, load_tokenizer
from trainables.models.task_model import load_task_model
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate, summary
from trainables.stages.finetune import root_of, tokenizer_of
from trainables.store.examples import example_scores, joined_tests, write_example_scores
from trainables.store.stage_store import StageStore

QUERIES = 512  # from the test sets of all languages in proportion to their size; more if small languages need them


@dataclass(frozen=True)
class CheckpointBenchmark:
    """Measures variants of a chain's models; the first target's model is the one timed.

    `output` is the folder of the stage store; every stage of both chains must be finished. `examples` is the file for scores by
    example, in the form of a trial's. `baseline` is a chain to compare with, whose models differ from the chain's in their
    weights alone: it is scored but not timed, because its costs are the same.
    """

    output: str
    chain: tuple[Evaluate, ...]
    threads: int
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    device: str = "cpu"
    examples: str | None = None
    baseline: tuple[Evaluate, ...] | None = None

    def run(self, variant: str | Variant, *, scored: bool = True) -> Measured:
        """Time a variant and score the same `Forward`.

        It adds `timed_task` and the encoder's `params_m` and `params_body_m` to the measurement. If scored, it also adds
        `scores` (a summary per target), `test_score` (their mean over targets, in percent) and `test_score_without_english`
        (the same over the other languages; None if no target has any), and `FLIPS` with what was counted by task (`flips`), if
        predictions changed with the batch. `baseline` holds these three of the baseline, which is
        scored last, in the same process; without a baseline the key is absent.

        Raises:
            VariantUnavailable: the variant cannot run on this device.
            FileNotFoundError: a stage of a chain is not finished.
            Damaged: a model's files have changed since they were stored.
        """
        variant = variant_named(variant).for_texts(self._tokens)
        compared = self.baseline if scored else None
        for evaluate in compared or ():
            self._folder(evaluate)  # timing takes minutes, so a stage that is missing is found before it
        timed = {**self._time(variant), "timed_task": self.chain[0].task.name}
        if not scored:
            return Measured(timed)
        served = [self._serve(evaluate, variant, audited=True) for evaluate in self.chain]
        scores = [its_scores for its_scores, _ in served]
        if self.examples is not None:
            tables = [
                (evaluate.task.name, example_scores(its_scores))
                for evaluate, its_scores in zip(self.chain, scores, strict=True)
            ]
            write_example_scores(joined_tests(tables), Path(self.examples))
        flips = {evaluate.task.name: its for evaluate, (_, its) in zip(self.chain, served, strict=True) if its}
        values = {**timed, **_summarised(self.chain, scores), **summarised(flips)}
        if compared is not None:
            scores = [self._serve(evaluate, variant, audited=False)[0] for evaluate in compared]
            values["baseline"] = _summarised(compared, scores)
        return Measured(values)

    def _time(self, variant: Variant) -> dict[str, Any]:
        evaluate = self.chain[0]
        folder = self._folder(evaluate)
        start = time.perf_counter()
        model = load_task_model(folder, evaluate.task, device=torch.device(self.device))
        load_s = time.perf_counter() - start
        self._check(evaluate)
        tokenizer = load_tokenizer(tokenizer_of(evaluate.model, self._work()))
        tests = self._tests(evaluate)
        pools: list[tuple[str, Sequence[Query]]] = [
            (test.language, [feature.rows for feature in test.features]) for test in tests
        ]
        count = count_parameters(model.encoder)
        head, prefixes = HEADS[evaluate.task.head], root_of(evaluate.model).tokenizer.prefixes
        read = [head.prefixed(test.examples, prefixes) for test in tests]
        benchmark = Benchmark(
            model,
            sample_queries(pools, QUERIES, seed=0),
            tokenizer.pad_token_id,
            torch.device(self.device),
            threads=self.threads,
            settings=self.settings,
            texts=Texts.sample(evaluate.task, tokenizer, evaluate.max_length, read),
            load_s=load_s,
        )
        measured = benchmark.measure(variant).as_dict()
        for test in tests:
            if (tokens := tokens_per_word(test.examples, test.language, tokenizer)) is not None:
                measured["languages"].setdefault(test.language, {})["pieces_per_word"] = tokens
        return {**measured, "params_m": count.total / 1e6, "params_body_m": count.body / 1e6}

    def _tokens(self) -> ServedTokens:
        """The tokens of every set that an evaluation of the chain reads, in all languages."""
        work = self._work()
        for evaluate in self.chain:
            self._folder(evaluate)
        tokenizer = load_tokenizer(tokenizer_of(self.chain[0].model, work))
        ids = np.concatenate([evaluate.features.token_ids(work) for evaluate in self.chain])
        return ServedTokens.of(tokenizer, np.unique(ids).tolist())

    def _tests(self, evaluate: Evaluate) -> list[ExampleSet]:
        """The test sets of the task's languages; users do not send pools of candidates."""
        sets = evaluate.sets(self._work())
        return [test for test in sets if test.split == "test" and test.language in evaluate.task.languages]

    def _serve(self, evaluate: Evaluate, variant: Variant, *, audited: bool) -> tuple[list[Score], Flips | None]:
        """The scores of a model as served, and if audited what the batch changes in its predictions."""
        model = load_task_model(self._folder(evaluate), evaluate.task, device=torch.device(self.device))
        self._check(evaluate)
        with pinned(max(self.threads, available_cores()), ()):  # only the timing is on the plan's threads
            forward = variant.prepare(model, torch.device(self.device))
            outputs = evaluate.outputs(forward, self._work())
            scores, task = score_outputs(outputs, evaluate.task), evaluate.task
            if not audited:
                return scores, None
            pad_id = load_tokenizer(tokenizer_of(evaluate.model, self._work())).pad_token_id
            return scores, count_flips(forward, task, outputs, pad_id=pad_id, device=torch.device(self.device))

    def _work(self) -> Workplace:
        return Workplace(StageStore(Path(self.output)), device=torch.device(self.device))

    def _folder(self, evaluate: Evaluate) -> Path:
        work = self._work()
        model = work.store.find(evaluate.model)
        if model is None:
            raise FileNotFoundError(f"{work.store.folder(evaluate.model)}: not a finished stage")
        ensure(evaluate.features, work)  # missing only if the evaluation has never run here
        return model.folder

    def _check(self, evaluate: Evaluate) -> None:
        """Hash the model's files. Doing so before loading would put them in the page cache and shorten the timed load."""
        self._work().store.find_intact(evaluate.model)


def _summarised(chain: Sequence[Evaluate], scores: Sequence[list[Score]]) -> dict[str, Any]:
    """A summary per target, and their means with and without English."""
    targets = [summary(evaluate.task, its_scores) for evaluate, its_scores in zip(chain, scores, strict=True)]
    others = [mean for target in targets if (mean := target["test_mean_without_english"]) is not None]
    return {
        "scores": {target["task"]: target for target in targets},
        "test_score": sum(target["test_mean"] for target in targets) / len(targets),
        "test_score_without_english": sum(others) / len(others) if others else None,
    }
