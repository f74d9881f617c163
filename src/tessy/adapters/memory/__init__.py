"""Keys and values of many texts under one model, and a forward that computes only what is new of each.

`places` holds the buffers and knows whose they are, `reading` runs the model over them. Importing this imports torch
and transformers; nothing in tessy imports it at its top but adapters that are themselves imported late.
"""

from tessy.adapters.memory.places import Places, Strand, common, place_width
from tessy.adapters.memory.reading import Memory, Part, reads_on, token_bytes

__all__ = ["Memory", "Part", "Places", "Strand", "common", "place_width", "reads_on", "token_bytes"]
