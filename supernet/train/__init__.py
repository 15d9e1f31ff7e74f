"""Training: phases, strategies, the loop, arch steps, checkpoints."""
