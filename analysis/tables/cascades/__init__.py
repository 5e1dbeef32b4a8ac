"""Cascades of two sizes: what stored confidences predict, and what a served cascade came to."""
