"""Tasks: what is trained and scored. `registry` lists them by name."""
