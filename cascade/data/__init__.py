"""Images to learn from and to score: named data sets, folders, arrays in files, their splits."""

from cascade.data.named import open_images
from cascade.data.splits import SPLITS

__all__ = ["SPLITS", "open_images"]
