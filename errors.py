"""One family of errors. Each message is one sentence or two: what was wrong, with which input, what to do."""


MAX_MESSAGE = 1500


def printable(text: str) -> str:
    """`text` for a terminal or a page: line breaks are spaces, other signs that do not print are spelled out. What
    comes from a file or a server may hold commands for the terminal."""
    if text.isprintable():
        return text
    text = text.replace("\r\n", " ").replace("\n", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class IdentityLockError(Exception):
    """Anything that this pack refuses; the message is meant for the user and needs no traceback."""

    def __str__(self) -> str:
        text = printable(super().__str__())
        if len(text) <= MAX_MESSAGE:
            return text
        half = MAX_MESSAGE // 2
        return f"{text[:half]} ... {text[-half:]}"


class PhotoError(IdentityLockError):
    """A photograph or picture that cannot be used: unreadable, no face, face too small, somebody else."""


class RecogniserError(IdentityLockError):
    """A face model that is missing, altered or not comparable with the one that made an identity."""


class CheckpointError(IdentityLockError):
    """A diffusion checkpoint that is missing, truncated, of another architecture, or in a refused format."""


class TrainingError(IdentityLockError):
    """Training that cannot start or go on: NaN in the loss, a resume that does not fit, nothing to train on."""


class RenderError(IdentityLockError):
    """A render or a seed search that cannot be made as asked."""


class PromptRefused(IdentityLockError):
    """A prompt that the guard refuses; names the rule that fired."""


class OutputError(IdentityLockError):
    """A result that could not be written: folder unwritable, disk full."""
