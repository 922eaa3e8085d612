"""What is written and read: distilled data, checkpoints, reports."""
