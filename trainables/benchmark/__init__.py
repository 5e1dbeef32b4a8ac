"""The inference benchmark: plain Python, wrapped by an actor elsewhere."""

from trainables.benchmark.benchmark import Benchmark
from trainables.benchmark.measurement import Measurement
from trainables.benchmark.scenarios.lengths import Query, QuerySample, sample_queries
from trainables.benchmark.settings import DEFAULT, QUICK, STRICT, BenchmarkSettings
from trainables.benchmark.variants import VARIANTS, Variant, VariantUnavailable

__all__ = [
    "DEFAULT",
    "QUICK",
    "STRICT",
    "VARIANTS",
    "Benchmark",
    "BenchmarkSettings",
    "Measurement",
    "Query",
    "QuerySample",
    "Variant",
    "VariantUnavailable",
    "sample_queries",
]
