"""How good a cascade is: likelihoods of data sets, sample quality, layer checks, tables."""
