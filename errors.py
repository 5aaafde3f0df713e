"""One family of errors. Each message is one sentence or two: what was wrong, with which input, what to do."""


class IdentityLockError(Exception):
    """Anything that this pack refuses; the message is meant for the user and needs no traceback."""


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
