"""Layer 3: what composes the layers below into something that a user runs."""
