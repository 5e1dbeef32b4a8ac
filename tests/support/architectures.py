"""A small architecture for estimates worked out by hand."""

from study.planning.architecture import Architecture
from trainables.models.encoder import ParameterCount

# 1000 parameters, 600 of them in the body, at most 400 in one module.
SMALL = Architecture(ParameterCount(1000, 600), 400, 2, 8, 8, 2, fused_attention=True, vocabulary=50)
