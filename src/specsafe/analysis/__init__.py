"""What a study says: tables of its answers in, one typed result of all passes out."""
