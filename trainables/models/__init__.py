"""Encoders and task models: published encoders, the study's own ladder, their architectures, vocabularies and loading."""
