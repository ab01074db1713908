"""Everything that storage can object to; each error says what, where, and the remedy, in one line."""


class StorageError(Exception):
    """The world on disk is not as it should be."""


class InputError(StorageError, ValueError):
    """A person asked for something that cannot be: the command line answers with exit code 2."""


class UnknownRunError(InputError):
    """No run of that name lies under the root."""


class RunConflictError(InputError):
    """The name belongs to a run with another configuration."""


class RunBusyError(StorageError):
    """Another process is at work on the run."""


class PlanConflictError(StorageError):
    """The store in this place was planned otherwise."""


class CommitConflictError(StorageError):
    """Two attempts at one chunk gave different bytes, which determinism forbids."""


class DamagedError(StorageError):
    """Bytes differ from what was committed."""


class IncompleteError(StorageError):
    """Something that should be finished is not."""


class VersionError(StorageError):
    """Written by a version of the format that cannot be read here."""


class StreamConflictError(StorageError):
    """A place in a stream belongs to another order, or to other trajectories."""


class HaltedError(StorageError):
    """Others ended what this waits for, or asked it to end."""


class StepTimeoutError(StorageError):
    """A step took longer than it may."""
