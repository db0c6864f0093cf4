"""What heads do, in any model: portraits, knock-outs, patching, rollouts."""
