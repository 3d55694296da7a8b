"""What is run: jobs, the ledger that keeps every finished answer, and the executor between them."""
