"""Layer 1: the method itself. Pure: no HTTP, torch, files or clock."""
