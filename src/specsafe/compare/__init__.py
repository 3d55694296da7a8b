"""Safety-aware methods on real prompts, side by side and token by token."""
