"""Safety-aware speculative decoding: one table of methods, made of shared parts."""
