"""The benchmark of an encoder before anything is trained on it: a variant timed with a new head of a target.

Latency depends on shapes, not on what weights were trained to, so this figure is known before the first trial. What is reported
in the end is measured on the model that is scored.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from trainables.benchmark.measurement import Measured
from trainables.benchmark.probes.memory import release_models
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.timing import time_task
from trainables.benchmark.variants import ServedTokens, Variant, variant_named
from trainables.models.encoder import load_tokenizer
from trainables.models.task_model import new_task_model
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import root_of, tokenizer_of
from trainables.store.opening import open_store


@dataclass(frozen=True)
class UntrainedBenchmark:
    """Measures variants of the encoder that `evaluate`'s model will be trained from, with an untrained head of its task.

    `output` is the folder of the stage store, which must have the encoder. Queries are those of the task's test sets, which are
    tokenised here if no trial has done so yet.
    """

    output: str
    evaluate: Evaluate
    threads: int
    settings: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    device: str = "cpu"

    def run(self, variant: str | Variant, *, scored: bool = False) -> Measured:
        """Time a variant. There is nothing to score; `weights` says so.

        Raises:
            VariantUnavailable: the variant cannot run on this device.
            FileNotFoundError: the encoder is not in the store.
        """
        work = Workplace(open_store(Path(self.output)), device=torch.device(self.device))
        encoder = root_of(self.evaluate.model)
        if work.store.find(encoder) is None:
            raise FileNotFoundError(f"{work.store.folder(encoder)}: not a finished stage")
        ensure(self.evaluate.features, work)
        release_models(work.device)  # of the variant before
        start = time.perf_counter()
        model = new_task_model(work.store.local(encoder), self.evaluate.task, seed=0, device=work.device).eval()
        load_s = time.perf_counter() - start
        timed = time_task(
            *(model, self.evaluate, variant_named(variant).for_texts(lambda: self._tokens(work))),
            work=work,
            threads=self.threads,
            settings=self.settings,
            load_s=load_s,
        )
        return Measured({**timed, "weights": "untrained head"})

    def _tokens(self, work: Workplace) -> ServedTokens:
        tokenizer = load_tokenizer(tokenizer_of(self.evaluate.model, work))
        return ServedTokens.of(tokenizer, np.unique(self.evaluate.features.token_ids(work)).tolist())
