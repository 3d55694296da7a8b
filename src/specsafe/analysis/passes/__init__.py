"""The passes: pure functions from tables to what is found, each in a module of its subject."""
