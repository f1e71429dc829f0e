"""Speed and memory of a stage, and of other implementations beside it."""
