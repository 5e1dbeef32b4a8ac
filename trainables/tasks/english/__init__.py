"""English intermediate tasks, trained before a target."""
