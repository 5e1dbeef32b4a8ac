"""Where an interrupted training goes on: checkpoints, their upload, and their reading by another number of workers."""
