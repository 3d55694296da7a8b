"""specsafe: does speculative decoding change how safe the answers are?"""

__version__ = "0.1.0"
