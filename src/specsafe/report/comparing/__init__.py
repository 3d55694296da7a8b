"""What the report of a comparison is made of: sections, figures, the table for a terminal."""
