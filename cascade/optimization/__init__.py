"""How weights are moved: optimisers, learning rates, averages."""
