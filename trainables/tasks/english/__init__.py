"""Intermediate tasks: English, trained before the target."""
