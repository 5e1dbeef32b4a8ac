"""Altair charts of a study, sized by their container and legible without colour vision."""
