"""Readers of published formats, one module for each format: files or rows of the hub in, examples out."""
