"""Training a toy task from a config: `train.py` is the command."""
