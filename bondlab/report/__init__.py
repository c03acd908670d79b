"""How measures are shown: intervals, plots, figures' files, notebooks' parameters and tables."""
