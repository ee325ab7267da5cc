"""From a config to finished trials."""
