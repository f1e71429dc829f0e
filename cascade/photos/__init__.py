"""Photos of any size: enlarging them in tiles, and editing them in latent space."""
