"""Scores of enlargements: many high images of one low image, beside the true one."""
