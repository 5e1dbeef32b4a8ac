"""Tasks: what is trained and scored. `registry` finds them by name."""
