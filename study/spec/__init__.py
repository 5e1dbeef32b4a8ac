"""What a study is: a recipe returns one complete, frozen `Study` of these values."""

from study.spec.space import NONE, Choice, LogUniform, Repeats, Space
from study.spec.study import BenchmarkPlan, InvalidStudy, LadderEncoder, Size, Study, TaskTuning

__all__ = [
    "NONE",
    "BenchmarkPlan",
    "Choice",
    "InvalidStudy",
    "LadderEncoder",
    "LogUniform",
    "Repeats",
    "Size",
    "Space",
    "Study",
    "TaskTuning",
]
