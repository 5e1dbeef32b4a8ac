"""Stages in a bucket of an object store."""
