"""A study of zero-shot transfer against speed: its recipes, search, benchmark, tracking and command line."""
