"""Labelled images: read, split, normalised, augmented and drawn in batches."""
