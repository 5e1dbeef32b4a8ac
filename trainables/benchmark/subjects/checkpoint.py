"""The benchmark of a finished chain: a variant timed on the first target's model and scored on all targets.

A second chain of the same shape can be scored beside it, as served by the same variant, without being timed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from trainables.benchmark.flips import count_flips, sampled, summarised
from trainables.benchmark.measurement import Measured
from trainables.benchmark.placement import pinned
from trainables.benchmark.probes.hardware import available_cores
from trainables.benchmark.probes.memory import release_models
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.served import Served, summary_of, write_served
from trainables.benchmark.subjects.timing import time_task
from trainables.benchmark.variants import AS_EVALUATED, ServedTokens, Variant, variant_named
from trainables.evaluation import ExampleSet, Forward, predict, score_outputs
from trainables.heads import Outputs
from trainables.models.encoder import load_tokenizer
from trainables.models.task_model import load_task_model
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate, summary
from trainables.stages.finetune import root_of, tokenizer_of
from trainables.store.answers import ANSWERS, answers_table
from trainables.store.examples import EXAMPLES, example_scores, read_example_scores
from trainables.store.opening import open_store
from trainables.store.versions import versions

_NOTHING = np.zeros(0)  # in place of logits


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
            self.folder(evaluate)  # timing takes minutes, so a stage that is missing is found before it
        timed = self._time(variant)
        if not scored:
            return Measured(timed)
        served = [self.serve(evaluate, variant, audited=True) for evaluate in self.chain]
        if self.examples is not None:
            write_served(served, Path(self.examples))
        flips = {answers.task: answers.flips for answers in served if answers.flips is not None}
        values = {**timed, **summary_of(served), **summarised(flips)}
        if compared is not None:
            values["baseline"] = summary_of([self.serve(evaluate, variant, audited=False) for evaluate in compared])
        return Measured(values)

    def _time(self, variant: Variant) -> dict[str, Any]:
        evaluate = self.chain[0]
        folder = self.folder(evaluate)
        start = time.perf_counter()
        model = load_task_model(folder, evaluate.task, device=torch.device(self.device))
        load_s = time.perf_counter() - start
        self.check(evaluate)
        return time_task(
            *(model, evaluate, variant), work=self.work(), threads=self.threads, settings=self.settings, load_s=load_s
        )

    def _tokens(self) -> ServedTokens:
        """The tokens of every set that an evaluation of the chain reads, in all languages."""
        work = self.work()
        for evaluate in self.chain:
            self.folder(evaluate)
        tokenizer = load_tokenizer(tokenizer_of(self.chain[0].model, work))
        ids = np.concatenate([evaluate.features.token_ids(work) for evaluate in self.chain])
        return ServedTokens.of(tokenizer, np.unique(ids).tolist())

    def serve(self, evaluate: Evaluate, variant: Variant, *, audited: bool) -> Served:
        """A model's scores as served, and if audited what the batch changes in its predictions.

        A variant that computes what the finished evaluation computed on such a device is not scored a second time.
        """
        task, recorded = evaluate.task, self._recorded(evaluate) if type(variant) in AS_EVALUATED else None
        if recorded is not None and not audited:
            return Served(task.name, *recorded, None)
        release_models(torch.device(self.device))  # of the target before
        model = load_task_model(self.folder(evaluate), task, device=torch.device(self.device))
        self.check(evaluate)
        # Only the timing is on the plan's threads, and single queries, which gain little from more.
        with pinned(self.threads if variant.depends_on_batch else max(self.threads, available_cores()), ()):
            forward = variant.prepare(model, torch.device(self.device))
            if recorded is None:
                outputs = evaluate.outputs(forward, self.work(), alone=variant.depends_on_batch)
                scores = score_outputs(outputs, task)
                prefixes = root_of(evaluate.model).tokenizer.prefixes
                answers = answers_table(scores, task.metric)
                recorded = summary(task, scores, prefixes), example_scores(scores), answers
            else:
                outputs = self._sample_outputs(evaluate, forward)
            if not audited:
                return Served(task.name, *recorded, None)
            flips = count_flips(forward, task, outputs, pad_id=self._pad_id(evaluate), device=torch.device(self.device))
            return Served(task.name, *recorded, flips)

    def _recorded(self, evaluate: Evaluate) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame | None] | None:
        """A finished evaluation's scores, in summary and by example, and answers, if it ran on such a device and versions."""
        finished = self.work().store.find_intact(evaluate)
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
            for tests in evaluate.sets(self.work())
        ]
        sample, _ = sampled(sets, evaluate.task)
        audited = ExampleSet("test", sample.language, sample.examples, sample.features)
        device = torch.device(self.device)
        return predict(forward, [audited], self._pad_id(evaluate), share=self.work().share, device=device)

    def _pad_id(self, evaluate: Evaluate) -> int:
        return int(load_tokenizer(tokenizer_of(evaluate.model, self.work())).pad_token_id)

    def work(self) -> Workplace:
        """The stage store, on the device that measures.

        It is one store for all calls: models that it fetched stay on this node while they are loaded, mapped and measured.
        """
        return self._work

    @cached_property
    def _work(self) -> Workplace:
        return Workplace(open_store(Path(self.output)), device=torch.device(self.device))

    def __getstate__(self) -> dict[str, Any]:
        """Without the store, which is of this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_work"}

    def folder(self, evaluate: Evaluate) -> Path:
        """The folder of the model that the evaluation scores, whose features are then in the store too.

        Raises:
            FileNotFoundError: the model is not finished.
        """
        work = self.work()
        if work.store.find(evaluate.model) is None:
            raise FileNotFoundError(f"{work.store.folder(evaluate.model)}: not a finished stage")
        ensure(evaluate.features, work)  # missing only if the evaluation has never run here
        return work.store.local(evaluate.model)

    def check(self, evaluate: Evaluate) -> None:
        """Hash the model's files once they were loaded: earlier, that would put them in the page cache and shorten the load."""
        self.work().store.find_intact(evaluate.model)
