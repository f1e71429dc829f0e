"""Pictures of many images, heat maps and walks through latent space."""
