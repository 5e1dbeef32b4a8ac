"""Training: batches, the DeepSpeed engine, the loop, and what goes with them: checkpoints, early stopping, trimming."""
