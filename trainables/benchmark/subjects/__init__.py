"""What a benchmark can measure: a study's checkpoints, an encoder in a folder, or a published architecture. It is loaded and
measured in a fresh process."""
