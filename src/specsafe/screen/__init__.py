"""TAIS: pairs, forks, bounds, controls, verdict."""
