"""How anything measured is shown: intervals, plots, figures' files, notebooks' parameters and tables."""
