"""Everything tessy raises, by the boundary that was crossed.

    TessyError
    ├── ConfigError          a field, a flag or an environment variable of the user's
    ├── DataError            a line of a questions file, a row of a run directory
    ├── RunError             a run directory that cannot be used, a run that cannot go on
    ├── ModelError           a tokenizer, a model or a boundary predictor that cannot be loaded or read
    └── CompletionError      a completion that could not be had
        ├── ServerError      the server or the way to it (transport, 429, 5xx, a reply of the wrong shape)
        ├── RequestError     the server understood and refused (other 4xx): asking again is useless
        └── DeadlineError    the trajectory's time is up

Foreign exceptions are mapped to these once, where the boundary is, with the cause kept.
A message is one line: it names the thing, what was found, and what was expected or what to do.
"""


class TessyError(Exception):
    """Base of all errors that tessy raises for a reason outside its own code."""


class ConfigError(TessyError):
    """A configuration field is unknown, wrong or missing; the message names the field."""


class DataError(TessyError):
    """Stored or given data is not what it should be; the message names the file and the line."""


class RunError(TessyError):
    """A run directory is in use, made under another configuration, or a run cannot go on."""


class ModelError(TessyError):
    """A tokenizer, a model or a boundary predictor cannot be loaded or interpreted."""


class CompletionError(TessyError):
    """A completion could not be had. `where` names the model and server, `kind` is a short stable word."""

    def __init__(self, message: str, *, where: str = "", kind: str = "error") -> None:
        super().__init__(message)
        self.where = where
        self.kind = kind


class ServerError(CompletionError):
    """Transport failure, 429, 5xx, or a reply that is no completion, after the client's own retries."""


class RequestError(CompletionError):
    """The server refused the request itself (4xx other than 429); it is not sent again."""


class DeadlineError(CompletionError):
    """The trajectory's deadline passed while it waited for a completion."""
