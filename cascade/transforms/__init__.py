"""What happens to images before a flow sees them: pyramids, dequantisation, details."""
