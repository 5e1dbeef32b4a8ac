"""What can be measured: a study's checkpoints, an encoder's folder, a published architecture; and how to do so in a fresh
process."""
