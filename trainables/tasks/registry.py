"""Every task by name. A recipe names tasks; a new task is a class in a file of its own and a line here."""

from __future__ import annotations

from trainables.tasks.base import Task
from trainables.tasks.english.anli_plus import AnliPlus
from trainables.tasks.offline.cad_nli import CadNli
from trainables.tasks.english.ccg import Ccg
from trainables.tasks.english.commonsense_qa import CommonsenseQA
from trainables.tasks.english.cosmos_qa import CosmosQA
from trainables.tasks.offline.ewt_xpos import EwtXpos
from trainables.tasks.english.hellaswag import HellaSwag
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.qqp import Qqp
from trainables.tasks.offline.snli_dev_test import SnliDevTestAsTrain
from trainables.tasks.english.social_iqa import SocialIQa
from trainables.tasks.english.squad import Squad
from trainables.tasks.english.squad2 import Squad2
from trainables.tasks.unlabelled.masked_lm import MaskedLm
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroOrdering, MicroParaphrase, MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.offline.lareqa_from_tydiqa import LareqaFromTyDiQA
from trainables.tasks.offline.uner import UnerDevAsTrain
from trainables.tasks.offline.xcopa_from_copa import XcopaFromCopa
from trainables.tasks.offline.xnli_from_cad_nli import XnliFromCadNli
from trainables.tasks.offline.xquad_from_tydiqa import XQuADFromTyDiQA
from trainables.tasks.xtreme.bucc import Bucc
from trainables.tasks.xtreme.lareqa import Lareqa
from trainables.tasks.xtreme.mewslix import MewsliX
from trainables.tasks.xtreme.mlqa import Mlqa
from trainables.tasks.xtreme.panx import PanX
from trainables.tasks.xtreme.pawsx import PawsX
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos
from trainables.tasks.xtreme.xcopa import Xcopa
from trainables.tasks.xtreme.xnli import Xnli
from trainables.tasks.xtreme.xquad import XQuAD

MICRO: tuple[type[Task], ...] = (
    *(MicroTagging, MicroEntailment, MicroFollows, MicroSpan, MicroBitext),
    *(MicroParaphrase, MicroTopic, MicroOddOneOut, MicroOrdering),
)
INTERMEDIATE: tuple[type[Task], ...] = (AnliPlus, Mnli, Qqp, Squad, Squad2, HellaSwag, Ccg, CosmosQA, CommonsenseQA)
TARGETS: tuple[type[Task], ...] = (
    *(Xnli, PawsX, Xcopa, Udpos, PanX, XQuAD, Mlqa, TyDiQA, Bucc, Tatoeba, MewsliX, Lareqa),
)
# Read before another task, or in the place of data that cannot be had; under names of their own.
STAND_INS: tuple[type[Task], ...] = (
    *(SocialIQa, EwtXpos, SnliDevTestAsTrain, CadNli),
    *(XnliFromCadNli, XcopaFromCopa, UnerDevAsTrain, XQuADFromTyDiQA, LareqaFromTyDiQA),
)
UNLABELLED: tuple[type[Task], ...] = (MaskedLm, MicroMaskedLm)

TASKS: dict[str, type[Task]] = {task.name: task for task in (*TARGETS, *INTERMEDIATE, *STAND_INS, *MICRO, *UNLABELLED)}
