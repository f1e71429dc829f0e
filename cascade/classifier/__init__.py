"""A small net that learns to tell classes apart: what it sees in images are features for scores."""
