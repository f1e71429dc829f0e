"""Training one stage: the loop, its phases, checkpoints, logs, and the stage folder."""
