"""How the adapters that come with the package were trained."""
