"""Trains a model on a toy task from a config, and shows its attention filters becoming meaningful.

    python train.py configs/reverse.toml
    python train.py configs/reverse.toml --model.num-heads 2 --run.folder runs/two_heads
    python train.py configs/reverse.toml --sweep model.num-heads 1 2 4 --sweep model.score scaled_dot cosine

The same command again resumes. `jattn/command/main.py` reads the arguments; the training loop is in
`jattn/training/loop.py`, which is worth reading from top to bottom.
"""

import sys

from jattn.command.console import end_at_ctrl_c

if __name__ == "__main__":
    end_at_ctrl_c()

    from jattn.command.main import main

    sys.exit(main(sys.argv[1:]))
