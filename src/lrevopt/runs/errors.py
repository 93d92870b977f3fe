"""Errors in one sentence, for commands that end with exit code 2."""


def sentence(error: Exception) -> str | None:
    """An error in one line; `None` for one that is a defect of the package."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError):
        if error.filename is None:
            return said if error.errno is None else f"{error.strerror}."
        return f"`{error.filename}` cannot be read or written: {error.strerror}."
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in said:
        return (
            "This takes more memory than there is: fewer problems, settings, units or steps take "
            "less."
        )
    if isinstance(error, OverflowError):
        return f"A number is too large: {said}."
    return said if isinstance(error, ValueError) else None
