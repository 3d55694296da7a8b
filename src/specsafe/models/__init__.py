"""Model weights: which ones specsafe knows by name, where they come from, and their hashes."""
