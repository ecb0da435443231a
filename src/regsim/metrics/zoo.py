"""The names of the trained models that are bundled. None yet: the classical metrics need no weights."""


def bundled_models() -> list[str]:
    """Names, sorted.

    >>> bundled_models()
    []
    """
    return []
