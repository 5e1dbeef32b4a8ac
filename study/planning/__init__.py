"""What a study needs and costs, worked out before anything starts: memory, operations, GPU-hours, and the plan printed."""
