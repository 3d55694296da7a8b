"""The sections of a report, each a function from the result to blocks."""
