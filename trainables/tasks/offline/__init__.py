"""Tasks under names of their own, for where the published training data cannot be had."""
