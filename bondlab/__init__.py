"""BOND: distilling Best-of-N sampling into one-sample policies."""
