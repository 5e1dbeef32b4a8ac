"""Stages: units of training or scoring with an identity."""
