"""A flow against a GAN and a net of L1, as equal as they can be made: nets, training, verdict."""
