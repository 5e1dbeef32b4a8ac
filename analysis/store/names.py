"""Names and decimals of the quantities a study records, as charts and tables show them."""

from __future__ import annotations

from analysis.store.frames import MEAN_WITHOUT_ENGLISH

# Copies of constants of `trainables`, which is not imported here; `tests/test_copies.py` compares them.
FLIPS_BATCH = 32  # queries
FLIPS_CANDIDATES = 64  # that a query of a retrieval task is compared with
MAX_ANSWER_TOKENS = 30  # of span extraction
METRIC_NAMES = {
    "p50_ms": "p50 latency (ms)",
    "p90_ms": "p90 latency (ms)",
    "p99_ms": "p99 latency (ms)",
    "mean_ms": "mean latency (ms)",
    "server_p99_ms": "p99 latency under load (ms)",
    "server_qps": "load within the latency bound (queries/s)",
    "server_bound_ms": "latency bound (ms)",
    "throughput_sps": "throughput (samples/s)",
    "peak_memory_mb": "peak memory (MB)",
    "rss_mb": "host memory (MB)",
    "energy_j_per_sample": "energy (J/sample)",
    "idle_power_w": "idle power (W)",
    "cold_start_ms": "cold start (ms)",
    "tokenise_p50_ms": "tokenisation, p50 (ms)",
    "end_to_end_p50_ms": "p50 latency with tokenisation (ms)",
    "mean_pieces": "tokens per query, mean",
    "batch_size": "batch size",
    "repeats": "repeats",
    "samples": "queries timed",
    "queries": "distinct queries",
    "flips_scored": "predictions that differ from the scored ones when served singly (%)",
    "flips_batch": f"predictions that batches of {FLIPS_BATCH} change (%)",
    "flips_padding": "predictions that padding alone changes (%)",
    "flips_examples": "examples compared",
    "test_score": "test score, all languages (%)",
    "test_score_without_english": "test score without English (%)",
    "params_m": "parameters (M)",
    "params_body_m": "body parameters (M)",
}
METRIC_DIGITS = dict.fromkeys(METRIC_NAMES, 2) | {
    "energy_j_per_sample": 4,
    "peak_memory_mb": 0,
    "rss_mb": 0,
    "throughput_sps": 1,
    "test_score": 1,
    "test_score_without_english": 1,
    "batch_size": 0,
    "repeats": 0,
    "samples": 0,
    "queries": 0,
    "flips_scored": 1,
    "flips_batch": 1,
    "flips_padding": 1,
    "flips_examples": 0,
}
VERDICT_NAMES = {
    "gain": "gain",
    "loss": "loss",
    "tie": "tie",
    "higher": "higher",
    "lower": "lower",
    "unclear": "undecided",
    "same": "the same",
    "untested": "not tested",
    "one seed": "one seed: not tested",
}


def score_name(judged_by: str) -> str:
    """Name of a mean over targets and languages; "zero-shot" only where English is left out."""
    return "mean zero-shot test score" if judged_by == MEAN_WITHOUT_ENGLISH else "mean test score"
