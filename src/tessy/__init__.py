"""tessy: student-consistent training data for reasoning models (TESSY, arXiv 2604.14164)."""
