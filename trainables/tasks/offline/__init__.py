"""Stand-ins, under their own names, for tasks whose published training data are unavailable."""
