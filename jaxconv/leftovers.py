"""Files and folders that operating systems and tools create in the folders of users."""

_BY_WINDOWS = frozenset({"thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"})
_BY_OTHERS = frozenset({"lost+found", "@eaDir", "__MACOSX"})


def is_leftover(name: str) -> bool:
    """Returns whether an operating system or a tool, not a user, creates files or folders of this name.

    These names are: names that begin with a dot, which covers ``.DS_Store``, ``._photo.png``, ``.nfs0001`` and
    ``.ipynb_checkpoints``; Windows's ``Thumbs.db``, ``desktop.ini``, ``$RECYCLE.BIN`` and ``System Volume
    Information`` in upper or lower case; ``lost+found``, ``@eaDir`` and ``__MACOSX``.

    Args:
      name: the last part of a path.

    >>> [name for name in ("cats", ".DS_Store", "THUMBS.DB", "lost+found") if not is_leftover(name)]
    ['cats']
    """
    return name.startswith(".") or name in _BY_OTHERS or name.lower() in _BY_WINDOWS
