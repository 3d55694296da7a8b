"""Verify, not regenerate: one prefill tells whether an answer is what the target alone would have said."""
