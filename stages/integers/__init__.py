"""What lies between the integers of an image and the flow: supports, mixtures, dequantisation."""
