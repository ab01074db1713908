"""The sentences in which a specification refuses a value: key, what is allowed, what it got. Standard library only."""


def require(is_valid: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless valid."""
    if not is_valid:
        raise ValueError(message)


def require_one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ``ValueError`` that names the key, the value and what is allowed, unless it is one of them."""
    require(value in allowed, f"{key} must be one of {', '.join(allowed)}, got {value!r}")


def require_at_least(key: str, value: float, least: float) -> None:
    """Raise ``ValueError`` unless ``value >= least``."""
    require(value >= least, f"{key} must be at least {least:g}, got {value:g}")


def require_positive(key: str, value: float) -> None:
    """Raise ``ValueError`` unless ``value > 0``."""
    require(value > 0, f"{key} must be positive, got {value:g}")


def as_tuple(value: float | tuple[float, ...], *, dim: int = 1) -> tuple[float, ...]:
    """Give a list of numbers, a single number repeated ``dim`` times."""
    return value if isinstance(value, tuple) else (value,) * dim


def shown(value: float | tuple[float, ...]) -> str:
    """Give a number or a list of numbers as a person would write it."""
    return f"[{', '.join(f'{v:g}' for v in value)}]" if isinstance(value, tuple) else f"{value:g}"


def require_attribute(key: str, value: str) -> None:
    """Raise ``ValueError`` unless the value is empty or reads ``module:attribute``."""
    require(value == "" or all(value.partition(":")), f"{key} must be module:attribute, got {value!r}")
