"""p(θ₀), the distribution of initial weights: laws, and banks of pre-trained networks (paper, section 3.3 and 3.5)."""
