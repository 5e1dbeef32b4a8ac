"""How long does an epoch of fine-tuning take, compared with the transformers Trainer?

    python -m tests.benchmarks.finetune_epoch [--data-root ../shared/data] [--quick]

All contestants fine-tune the same model with the same optimizer on the same examples for the same number of steps: a 6 x 384
XLM-R body with random weights (speed does not depend on them), the dropout and attention that the study gives a published
encoder, and our classification head; pairs of XNLI's English dev set, 32 a batch, one epoch. The vocabulary is mBERT's
(119,547 entries); the table is padded to XLM-R's 250,002 rows.

1. Ours: `fit`, as a stage calls it (DeepSpeed engine, length buckets, bf16 where the CPU has it). The time includes building
   the engine and releasing its state. Once with the vocabulary trimmed, once with all rows. The rows kept are those that occur
   in XNLI's dev and test sets, CAD's NLI training set and UD English-EWT's training set together, because a real training set
   has more words than 2,500 examples.
2. The Trainer: `train()` only, nothing saved or logged. (a) Dynamic padding in fp32, as in its examples; (b) its fastest
   setting, grouped by length in bf16, padded to a multiple of 8. Fused AdamW, examples as lists in memory.

Before anything is timed, the losses of the first steps are compared: the same batches in the same order, dropout off, in fp32
and in bf16, ours with and without trimming against the Trainer. If they differ, the benchmark ends with exit code 1.
Contestants take turns in every round, another one first each time. A ratio is the Trainer's time over ours, above 1 where ours
is faster: the median over rounds, with its range; ratios of CPU seconds of all threads are in the document too. The Trainer
needs accelerate (`pip install -e '.[peers]'`). The last line is one JSON document.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Annotated, NoReturn

import torch
import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from study.spec.precision import cpu_precision
from trainables.benchmark.probes.hardware import available_cores, hardware
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.heads import HEADS
from trainables.heads.classification import ClassificationModule
from trainables.heads.features import FeatureTable, read_features, write_features
from trainables.hyperparameters import Training
from trainables.models.families import FAMILIES
from trainables.models.task_model import TaskModel
from trainables.resources import Resources
from trainables.stages.base import Workplace
from trainables.stages.fit import fit
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions
from trainables.tasks.base import Split, Task
from trainables.tasks.offline.cad_nli import CadNli
from trainables.tasks.xtreme.udpos import Udpos
from trainables.tasks.xtreme.xnli import Xnli
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.engine import Layout, managed_engine
from trainables.training.loop import train
from trainables.training.trimming import Lookups, looked_up, trim

ROWS, LAYERS, WIDTH, BATCH = 250_002, 6, 384, 32
VOCABULARY = "mbert_vocab/mbert_modified_vocab.txt"
DROPOUT = 0.1  # of XLM-R's published configuration
COMPARED_STEPS = 8
# One step rounds by 1e-6 of a loss of 1, and weights diverge with every step. bf16 keeps 8 bits. Both sides pad rows to
# multiples of 8 and so multiply the same shapes.
MOST_DIFFERENCE = {"fp32": 1e-4, "bf16_mixed": 2e-2}
OURS, UNTRIMMED, DYNAMIC, BEST = "ours", "ours, all rows", "Trainer, dynamic padding", "Trainer, grouped, bf16"
CONTESTANTS = (OURS, UNTRIMMED, DYNAMIC, BEST)
RATIOS = {  # numerator and denominator
    "ratio_dynamic": (DYNAMIC, OURS),
    "ratio_best": (BEST, OURS),
    "ratio_best_untrimmed": (BEST, UNTRIMMED),
    "ratio_trimming": (UNTRIMMED, OURS),
}
SAME_ORDER = "Trainer, our batches"
CPU, TASK = torch.device("cpu"), Xnli()

console = Console(highlight=False)

DataRoot = Annotated[Path, typer.Option(help="folder of published files")]
Rounds = Annotated[int, typer.Option(min=1, help="how many times each contestant runs")]
Examples = Annotated[int, typer.Option(min=BATCH, help="examples an epoch, rounded down to whole batches")]
Quick = Annotated[bool, typer.Option("--quick", help="two rounds of 20 steps")]
Threads = Annotated[int, typer.Option(min=0, help="threads of PyTorch; 0: one a core")]


@dataclass(frozen=True)
class Setting:
    """What all contestants share."""

    features: FeatureTable
    words: Tensor
    tokenizer: PreTrainedTokenizerFast
    training: Training
    folder: Path

    def model(self, dropout: float) -> TaskModel:
        torch.manual_seed(0)
        config = XLMRobertaConfig(
            vocab_size=ROWS,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=WIDTH // 32,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=512 + self.tokenizer.pad_token_id + 1,
            type_vocab_size=1,
            pad_token_id=self.tokenizer.pad_token_id,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            attn_implementation=FAMILIES["xlm-roberta"].attention(CPU),
        )
        return TaskModel(XLMRobertaModel(config, add_pooling_layer=False), ClassificationModule(WIDTH, 3, "first"))

    @property
    def order(self) -> BatchOrder:
        return BatchOrder(self.features.lengths, BATCH, self.training.seed)

    @property
    def batches(self) -> FeatureBatches:
        return FeatureBatches(self.features, TASK, self.tokenizer.pad_token_id, self.order)

    def lookups(self, model: TaskModel) -> Lookups:
        return Lookups(model.encoder.get_input_embeddings(), self.words)


class Averaged(nn.Module):
    """Our model with the Trainer's interface: the loss is the mean over the batch."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model
        self.losses: list[Tensor] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels) / len(labels)
        self.losses.append(loss.detach())
        return {"loss": loss}


def main(
    data_root: DataRoot = Path("../shared/data"),
    rounds: Rounds = 5,
    examples: Examples = 1600,
    quick: Quick = False,
    threads: Threads = 0,
) -> None:
    """Compare losses, then print a table and one JSON line."""
    if not data_root.is_dir():
        _stop(f"--data-root {data_root}: no such folder; give the one with XNLI's files", 2)
    if importlib.util.find_spec("accelerate") is None:
        _stop("accelerate, which the Trainer needs, is not installed; pip install -e '.[peers]'", 2)
    if quick:
        rounds, examples = 2, 20 * BATCH
    os.environ[DATA_ROOT_VARIABLE] = str(data_root.resolve())
    threads = threads or available_cores()
    precision = cpu_precision()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, Processes(threads) as processes:
        try:
            setting = _setting(
                data_root, Path(name), examples, Training(2e-5, 1, BATCH, 0, precision.value, warmup=0.0)
            )
        except (DataError, OSError) as error:
            _stop(str(error), 2)
        padding = setting.tokenizer.pad_token_id
        console.print(
            f"{len(setting.features)} examples, {setting.training.steps} steps; {len(setting.words):,} of {ROWS:,} rows "
            f"(padding is id {padding}); {precision.value}: {precision.reason}"
        )
        compared = {
            name: _losses(dataclasses.replace(setting, training=training), processes)
            for name, training in _compared(setting)
        }
        for name, losses in compared.items():
            console.print(f"{name}: losses of {len(losses[OURS])} steps differ by at most {_difference(losses):.2g}")
            if not _difference(losses) <= MOST_DIFFERENCE[name]:
                _stop(f"losses in {name} differ, so times cannot be compared: {losses}", 1)
        state = {name: processes.state_bytes(name, setting) for name in (OURS, UNTRIMMED)}
        ran = _timed(setting, processes, rounds)
    seconds = {name: [epoch.wall_s for epoch in epochs] for name, epochs in ran.items()}
    cpu = {name: [epoch.cpu_s for epoch in epochs] for name, epochs in ran.items()}
    ratios, cpu_ratios = ({name: _ratios(clock, *pair) for name, pair in RATIOS.items()} for clock in (seconds, cpu))
    _show(seconds, ratios, state)
    document = {
        **{name: round(median(values), 3) for name, values in ratios.items()},
        "loss_max_abs_diff": _difference(compared["fp32"]),
        "loss_max_abs_diff_by_precision": {name: _difference(losses) for name, losses in compared.items()},
        "rounds": rounds,
        "spreads": {name: [round(min(values), 3), round(max(values), 3)] for name, values in ratios.items()},
        "seconds_per_epoch": {name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "cpu_ratios": {name: round(median(values), 3) for name, values in cpu_ratios.items()},
        "mean_loss_of_the_epoch": {name: round(mean(epochs[-1].losses), 4) for name, epochs in ran.items()},
        "optimizer_state_bytes": state,
        "xlm_roberta_base_optimizer_state_bytes": _xlm_roberta_base(len(setting.words)),
        "examples": len(setting.features),
        "steps": setting.training.steps,
        "rows": ROWS,
        "rows_trained": len(setting.words),
        "padded_tokens": _padded_tokens(setting),
        "precision": precision.value,
        "dropout": DROPOUT,
        "threads": threads,
        "load_average": os.getloadavg(),
        "wall_s": round(time.perf_counter() - started, 1),
        "hardware": hardware().as_dict(),
        "versions": {**versions(), "accelerate": importlib.metadata.version("accelerate")},
        "command": " ".join(["python", "-m", "tests.benchmarks.finetune_epoch", *sys.argv[1:]]),
    }
    print(json.dumps(document))


def _stop(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code)


# --- data


def _setting(data_root: Path, folder: Path, examples: int, training: Training) -> Setting:
    tokenizer = bert_tokenizer(data_root / VOCABULARY)
    read: dict[str, tuple[Task, Split]] = {
        "epoch": (Xnli(), "dev"),
        "xnli": (Xnli(), "test"),
        "cad": (CadNli(), "train"),
        "ud": (Udpos(), "train"),
    }
    tables = [
        _table(
            folder / f"{name}.arrow", task, split, tokenizer, training.max_length, examples if name == "epoch" else None
        )
        for name, (task, split) in read.items()
    ]
    embedding = nn.Embedding(ROWS, 1, padding_idx=tokenizer.pad_token_id)
    words = looked_up(embedding, tables, tokenizer.pad_token_id).ids
    training = dataclasses.replace(training, steps=len(tables[0]) // BATCH)
    return Setting(tables[0], words, tokenizer, training, folder)


def _table(
    path: Path, task: Task, split: Split, tokenizer: PreTrainedTokenizerFast, max_length: int, most: int | None
) -> FeatureTable:
    examples = task.examples(split, "en")
    if most is not None:
        examples = examples[: min(most, len(examples)) // BATCH * BATCH]
    features = HEADS[task.head].features(examples, task=task, tokenizer=tokenizer, max_length=max_length)
    write_features(path, [("en", features)])
    return read_features(path)


def bert_tokenizer(vocabulary: Path) -> PreTrainedTokenizerFast:
    """mBERT's tokenizer: cased WordPiece with its pair format."""
    words = {word: number for number, word in enumerate(vocabulary.read_text(encoding="utf-8").splitlines())}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", words["[SEP]"]), ("[CLS]", words["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


# --- contestants


def _ours(setting: Setting, model: TaskModel, *, trims: bool) -> list[float]:
    """Train an epoch as a stage does; returns the loss of every step."""
    losses: list[float] = []
    work = Workplace(
        StageStore(setting.folder),
        Share(0, 1, BATCH),
        Resources(trim_vocabulary=trims),
        progress=lambda stage, done, total, loss: losses.extend([] if loss is None else [loss]),
    )
    fit(model, setting.batches, setting.training, work, "epoch", lookups=setting.lookups(model))
    return losses


def _trainer(
    setting: Setting, model: TaskModel, *, sampling: str, bf16: bool, pad_to: int | None, order: Sequence[int]
) -> Callable[[], list[float]]:
    """A function that trains a Trainer on the examples in this order and returns the loss of every step."""
    training = setting.training
    averaged = Averaged(model)
    arguments = TrainingArguments(
        output_dir=str(setting.folder / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=training.steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=training.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.98,
        adam_epsilon=1e-6,
        max_grad_norm=training.max_gradient_norm,
        optim="adamw_torch_fused",
        train_sampling_strategy=sampling,
        bf16=bf16,
        use_cpu=True,
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=training.seed,
    )
    examples = [
        {"input_ids": list(feature.rows[0]), "attention_mask": [1] * feature.length, "labels": feature.target[0]}
        for feature in setting.features.take(order)
    ]
    trainer = Trainer(
        model=averaged,
        args=arguments,
        train_dataset=examples,
        processing_class=setting.tokenizer,
        data_collator=DataCollatorWithPadding(setting.tokenizer, pad_to_multiple_of=pad_to),
    )
    trainer.remove_callback(PrinterCallback)

    def run() -> list[float]:
        trainer.train()
        if isinstance(trainer.model_wrapped, nn.parallel.DistributedDataParallel):
            raise RuntimeError("the Trainer found a process group and wrapped its model, which makes it slower")
        return [float(loss) for loss in averaged.losses]

    return run


def _prepared(name: str, setting: Setting, base: TaskModel) -> Callable[[], list[float]]:
    """The function to time: it trains a copy of the model."""
    everything = range(len(setting.features))
    bf16 = setting.training.precision == "bf16_mixed"
    model = copy.deepcopy(base)
    if name in (OURS, UNTRIMMED):
        return partial(_ours, setting, model, trims=name == OURS)
    if name == DYNAMIC:
        return _trainer(setting, model, sampling="random", bf16=False, pad_to=None, order=everything)
    if name == BEST:
        return _trainer(setting, model, sampling="group_by_length", bf16=bf16, pad_to=8, order=everything)
    order = [index for step in range(setting.training.steps) for index in setting.order.at(step)]
    return _trainer(setting, model, sampling="sequential", bf16=bf16, pad_to=8, order=order)


@dataclass(frozen=True)
class Ran:
    """An epoch: wall-clock seconds, CPU seconds of all threads, and the loss of every step."""

    wall_s: float
    cpu_s: float
    losses: list[float]


def _run(name: str, setting: Setting, dropout: float) -> Ran:
    run = _prepared(name, setting, _base(setting, dropout))
    gc.collect()
    start, start_cpu = time.perf_counter(), time.process_time()
    losses = run()
    ran = Ran(time.perf_counter() - start, time.process_time() - start_cpu, losses)
    del run
    gc.collect()
    return ran


_built: dict[float, TaskModel] = {}  # by dropout, in each process


def _base(setting: Setting, dropout: float) -> TaskModel:
    if dropout not in _built:
        _built.clear()
        _built[dropout] = setting.model(dropout)
    return _built[dropout]


class Processes:
    """One process for our contestants and one for the Trainer's; only one works at a time.

    In one process the Trainer would find our process group and wrap its model in `DistributedDataParallel`.
    """

    def __init__(self, threads: int) -> None:
        self._pools = {
            ours: ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,))
            for ours in (True, False)
        }

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)

    def run(self, name: str, setting: Setting, dropout: float) -> Ran:
        return self._pools[name in (OURS, UNTRIMMED)].submit(_run, name, setting, dropout).result()

    def state_bytes(self, name: str, setting: Setting) -> int:
        return self._pools[True].submit(_state_bytes, setting, trims=name == OURS).result()


# --- comparison of losses, and sizes


def _compared(setting: Setting) -> list[tuple[str, Training]]:
    steps = min(COMPARED_STEPS, setting.training.steps)
    precisions = dict.fromkeys(("fp32", setting.training.precision))
    return [(name, dataclasses.replace(setting.training, steps=steps, precision=name)) for name in precisions]


def _losses(setting: Setting, processes: Processes) -> dict[str, list[float]]:
    """Losses of the first steps by contestant, on our batches in our order, without dropout."""
    return {name: processes.run(name, setting, 0.0).losses for name in (OURS, UNTRIMMED, SAME_ORDER)}


def _difference(losses: Mapping[str, Sequence[float]]) -> float:
    """The largest difference between two contestants at any step."""
    return max(max(step) - min(step) for step in zip(*losses.values(), strict=True))


def _state_bytes(setting: Setting, *, trims: bool) -> int:
    """Bytes of the optimizer's state tensors after one step."""
    model = copy.deepcopy(_base(setting, DROPOUT))
    if trims:
        trim(model, setting.lookups(model))
    training = dataclasses.replace(setting.training, steps=1)
    share = Share(0, 1, BATCH)
    with managed_engine(model, training, Layout(share)) as engine:
        train(engine, setting.batches, training, share=share, device=CPU)
        states = engine.optimizer.state.values()
        return sum(value.nbytes for state in states for value in state.values() if torch.is_tensor(value))


def _xlm_roberta_base(rows_kept: int) -> dict[str, int]:
    """Bytes of two fp32 moments a parameter of XLM-R base's encoder, with all rows and with as many as here; computed."""
    with torch.device("meta"):
        config = XLMRobertaConfig(vocab_size=ROWS, max_position_embeddings=514, type_vocab_size=1)
        encoder = XLMRobertaModel(config, add_pooling_layer=False)
    whole = sum(parameter.numel() for parameter in encoder.parameters())
    return {
        "all_rows": 2 * 4 * whole,
        "trimmed": 2 * 4 * (whole - (ROWS - rows_kept) * config.hidden_size),
    }


def _padded_tokens(setting: Setting) -> dict[str, int]:
    """Tokens of an epoch in our batches, and without any padding."""
    lengths = setting.features.lengths
    batches = [setting.order.at(step) for step in range(setting.training.steps)]
    ours = sum(len(batch) * (-(-max(lengths[index] for index in batch) // 8) * 8) for batch in batches)
    return {"ours": ours, "without_padding": sum(lengths)}


# --- timing


def _timed(setting: Setting, processes: Processes, rounds: int) -> dict[str, list[Ran]]:
    """Every contestant once a round, after a warm-up of two steps each."""
    short = dataclasses.replace(setting, training=dataclasses.replace(setting.training, steps=2))
    for name in CONTESTANTS:
        processes.run(name, short, DROPOUT)
    ran: dict[str, list[Ran]] = {name: [] for name in CONTESTANTS}
    for turn in range(rounds):
        first = turn % len(CONTESTANTS)
        for name in CONTESTANTS[first:] + CONTESTANTS[:first]:
            epoch = processes.run(name, setting, DROPOUT)
            if len(epoch.losses) != setting.training.steps:
                raise RuntimeError(f"{name}: {len(epoch.losses)} of {setting.training.steps} steps")
            ran[name].append(epoch)
        console.print(f"round {turn + 1}: " + ", ".join(f"{name} {ran[name][-1].wall_s:.1f} s" for name in CONTESTANTS))
    return ran


def _ratios(seconds: Mapping[str, Sequence[float]], slower: str, faster: str) -> list[float]:
    return [slow / fast for slow, fast in zip(seconds[slower], seconds[faster], strict=True)]


def _show(
    seconds: Mapping[str, Sequence[float]], ratios: Mapping[str, Sequence[float]], state: Mapping[str, int]
) -> None:
    table = Table("", "s an epoch", "range", "optimizer state")
    for name, values in seconds.items():
        size = f"{state[name] / 1e6:.0f} MB" if name in state else ""
        table.add_row(name, f"{median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}", size)
    console.print(table)
    for name, values in ratios.items():
        console.print(f"{name}: {median(values):.2f} ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    typer.run(main)
