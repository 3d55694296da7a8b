"""The report of a study: sections and figures from its typed result; nothing is computed here."""
