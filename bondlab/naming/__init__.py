"""Names of values by what they compute: what a run is called."""
