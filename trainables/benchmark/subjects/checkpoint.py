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
import pandas as pd
import torch

from trainables.benchmark.benchmark import Benchmark
from trainables.benchmark.flips import Flips, count_flips, sampled, summarised
from trainables.benchmark.measurement import Measured
from trainables.benchmark.placement import pinned
from trainables.benchmark.probes.hardware import available_cores
from trainables.benchmark.scenarios.queries import Query, sample_queries
from trainables.benchmark.scenarios.texts import Texts, tokens_per_word
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import AS_EVALUATED, ServedTokens, Variant, variant_named
from trainables.evaluation import ExampleSet, Forward, predict, score_outputs
from trainables.heads import HEADS, Outputs
from trainables.models.encoder import count_parameters, load_tokenizer
from trainables.models.task_model import load_task_model
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate, summary
from trainables.stages.finetune import root_of, tokenizer_of
from trainables.store.answers import ANSWERS, answers_table
from trainables.store.examples import (
    EXAMPLES,
    example_scores,
    joined_tests,
    read_example_scores,
    write_example_scores,
)
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions

QUERIES = 512  # from the test sets of all languages in proportion to their size; more if small languages need them


_NOTHING = np.zeros(0)  # in place of logits


@dataclass(frozen=True)
class _Served:
    """A target as a variant serves it: its scores in summary and by example, and what the batch changes."""

    task: str
    summary: dict[str, Any]
    examples: pd.DataFrame
    answers: pd.DataFrame | None  # what the examples count for; earlier versions stored none
    flips: Flips | None


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
        """Time a variant and score the same `Forward`, unless the chain's own evaluations did (`AS_EVALUATED`).

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
        if self.examples is not None:
            _write_examples(served, Path(self.examples))
        flips = {answers.task: answers.flips for answers in served if answers.flips is not None}
        values = {**timed, **_summarised(served), **summarised(flips)}
        if compared is not None:
            values["baseline"] = _summarised([self._serve(evaluate, variant, audited=False) for evaluate in compared])
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

    def _serve(self, evaluate: Evaluate, variant: Variant, *, audited: bool) -> _Served:
        """A model's scores as served, and if audited what the batch changes in its predictions.

        A variant that computes what the finished evaluation computed on such a device is not scored a second time.
        """
        task, recorded = evaluate.task, self._recorded(evaluate) if type(variant) in AS_EVALUATED else None
        if recorded is not None and not audited:
            return _Served(task.name, *recorded, None)
        model = load_task_model(self._folder(evaluate), task, device=torch.device(self.device))
        self._check(evaluate)
        with pinned(max(self.threads, available_cores()), ()):  # only the timing is on the plan's threads
            forward = variant.prepare(model, torch.device(self.device))
            if recorded is None:
                outputs = evaluate.outputs(forward, self._work())
                scores = score_outputs(outputs, task)
                prefixes = root_of(evaluate.model).tokenizer.prefixes
                answers = answers_table(scores, task.metric)
                recorded = summary(task, scores, prefixes), example_scores(scores), answers
            else:
                outputs = self._sample_outputs(evaluate, forward)
            if not audited:
                return _Served(task.name, *recorded, None)
            flips = count_flips(forward, task, outputs, pad_id=self._pad_id(evaluate), device=torch.device(self.device))
            return _Served(task.name, *recorded, flips)

    def _recorded(self, evaluate: Evaluate) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame | None] | None:
        """A finished evaluation's scores, in summary and by example, and answers, if it ran on such a device and versions."""
        finished = self._work().store.find_intact(evaluate)
        if finished is None:
            return None
        context = finished.manifest["context"]
        device = torch.device(context.get("device", "meta"))  # earlier versions did not record it
        if device.type != torch.device(self.device).type or context.get("versions") != versions():
            return None
        scores = {name: value for name, value in finished.metrics.items() if name not in ("ceiling", "unlabelled")}
        answers = finished.folder / ANSWERS
        read = read_example_scores(answers) if answers.is_file() else None
        return scores, read_example_scores(finished.folder / EXAMPLES), read

    def _sample_outputs(self, evaluate: Evaluate, forward: Forward) -> list[Outputs[Any]]:
        """Outputs for the examples that are audited, in batches as an evaluation makes them."""
        sets = [
            Outputs(tests.split, tests.language, tests.examples, tests.features, [_NOTHING] * len(tests.features))
            for tests in evaluate.sets(self._work())
        ]
        sample, _ = sampled(sets, evaluate.task)
        audited = ExampleSet("test", sample.language, sample.examples, sample.features)
        device = torch.device(self.device)
        return predict(forward, [audited], self._pad_id(evaluate), share=self._work().share, device=device)

    def _pad_id(self, evaluate: Evaluate) -> int:
        return int(load_tokenizer(tokenizer_of(evaluate.model, self._work())).pad_token_id)

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


def _summarised(served: Sequence[_Served]) -> dict[str, Any]:
    """A summary per target, and their means with and without English."""
    targets = [answers.summary for answers in served]
    others = [mean for target in targets if (mean := target["test_mean_without_english"]) is not None]
    return {
        "scores": {target["task"]: target for target in targets},
        "test_score": sum(target["test_mean"] for target in targets) / len(targets),
        "test_score_without_english": sum(others) / len(others) if others else None,
    }


def _write_examples(served: Sequence[_Served], path: Path) -> None:
    """Write the scores by example, and beside them the answers that they are counted from, if all targets have them."""
    write_example_scores(joined_tests((target.task, target.examples) for target in served), path)
    answers = [(target.task, target.answers) for target in served if target.answers is not None]
    if len(answers) == len(served):
        write_example_scores(joined_tests(answers), path.with_name(ANSWERS))
    else:  # of an earlier measurement
        path.with_name(ANSWERS).unlink(missing_ok=True)
