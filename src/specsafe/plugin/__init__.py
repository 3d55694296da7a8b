"""specsafe inside vLLM: acceptance rules and safety-aware methods of `decoding`, put in the place of vLLM's own rule.

vLLM alone imports this room, and only `frontend`, `worker`, `sampler` and `endpoint` of it import vLLM.
"""
