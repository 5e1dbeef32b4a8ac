"""Stages: units of work with an identity, from vocabularies and pre-training to the scores of a chain."""
