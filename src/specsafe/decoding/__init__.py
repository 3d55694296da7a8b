"""How a token is chosen: drafters propose, the target scores, a rule accepts, the loop commits."""
