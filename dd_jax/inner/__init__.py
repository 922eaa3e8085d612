"""The inner loop: training on the distilled data (paper, equation 2)."""
