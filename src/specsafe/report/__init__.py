"""What is shown: renderings of the one result. No statistic is computed here."""
