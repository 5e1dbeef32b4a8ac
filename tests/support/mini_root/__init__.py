"""A miniature data root: invented content in the published formats of all tasks, in all their official languages."""
