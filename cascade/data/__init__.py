"""Images to learn from and to score: named data sets, folders, `.npz` files, their splits."""

from cascade.data.named import SPLITS, open_images

__all__ = ["SPLITS", "open_images"]
