"""Layer 2: each module implements one protocol or owns one format. They do not import one another."""
