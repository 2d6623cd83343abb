"""Second-order rounding of weights for flowlab."""
