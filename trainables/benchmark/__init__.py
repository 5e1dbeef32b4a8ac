"""The inference benchmark: latency, throughput, memory and energy of a trained model under a serving variant.

`Benchmark` measures a model in this process. `subjects` are things to measure from outside, each in a process or an actor
(`actor`) of its own.
"""

from trainables.benchmark.benchmark import Benchmark
from trainables.benchmark.measurement import Failed, Measured, Measurement, MeasurementOutcome, Unavailable
from trainables.benchmark.scenarios.queries import Query, QuerySample, sample_queries
from trainables.benchmark.settings import DEFAULT, QUICK, STRICT, BenchmarkSettings
from trainables.benchmark.variants import VARIANTS, Variant, VariantUnavailable

__all__ = [
    "DEFAULT",
    "QUICK",
    "STRICT",
    "VARIANTS",
    "Benchmark",
    "BenchmarkSettings",
    "Failed",
    "Measured",
    "Measurement",
    "MeasurementOutcome",
    "Query",
    "QuerySample",
    "Unavailable",
    "Variant",
    "VariantUnavailable",
    "sample_queries",
]
