"""The Ray cluster under a study: connection, capacity, which sizes fit, submitted jobs, and the progress actor."""
