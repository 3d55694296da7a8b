"""What the TR144 publication would have said of the same rows, beside what we say. Invalid statistics live only here."""

from specsafe.analysis.tr144.table import as_published

__all__ = ["as_published"]
