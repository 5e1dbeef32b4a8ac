"""Everything a recipe is written with: a recipe returns one complete, frozen `Study` of these values."""

from study.spec.arms import Arm, Joint, Merged, PublishedAfter, Sequential, merged
from study.spec.benchmark_plan import BenchmarkPlan, Cascade
from study.spec.precision import cpu_precision
from study.spec.sizes import LadderEncoder, Size
from study.spec.space import NONE, Choice, LogUniform, Rates, Repeats, Space
from study.spec.study import Study
from study.spec.tuning import TaskTuning
from study.spec.validation import InvalidStudy
from trainables.hyperparameters import EarlyStopping, Precision, Training
from trainables.models.card import Card
from trainables.models.encoder import Shape
from trainables.models.published_encoder import PublishedEncoder
from trainables.resources import Resources
from trainables.tasks.mixture import Mixture

__all__ = [
    "NONE",
    "Arm",
    "BenchmarkPlan",
    "Card",
    "Cascade",
    "Choice",
    "EarlyStopping",
    "InvalidStudy",
    "Joint",
    "LadderEncoder",
    "LogUniform",
    "Merged",
    "Mixture",
    "Precision",
    "PublishedAfter",
    "PublishedEncoder",
    "Rates",
    "Repeats",
    "Resources",
    "Sequential",
    "Shape",
    "Size",
    "Space",
    "Study",
    "TaskTuning",
    "Training",
    "cpu_precision",
    "merged",
]
