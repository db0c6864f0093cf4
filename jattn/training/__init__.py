"""Training a model on a task from a config: the loop, the step, checkpoints, sweeps."""
