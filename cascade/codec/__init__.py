"""A lossless codec: the probabilities of an exact cascade, in integers, spent on files."""
