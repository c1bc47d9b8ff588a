"""The folders of blobs, which have to be folders and no symbolic links."""

from __future__ import annotations

import errno
import os
from typing import Final

from .._files import make_folder
from .names import link_above

NOT_FOLLOWED: Final = frozenset({errno.ENOTDIR, errno.ELOOP})
"""The errors of opening a symbolic link as a folder without following it, on Linux and elsewhere."""


def make_folders_of_blob(folder: str) -> None:
    """Create the folder of a blob, and the one above it, if they are not there; not the one of all blobs."""
    top = os.path.dirname(folder)
    if os.path.islink(top):
        check_no_link(folder)
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        make_folder(top)
        make_folder(folder)
    except FileExistsError:
        if os.path.islink(folder):
            check_no_link(folder)


def check_no_link(folder: str) -> None:
    """Refuse to write through a symbolic link, which may lead into another store."""
    if (link := link_above(folder)) is not None:
        text = "A symbolic link has the name of a folder of blobs; scrub the store with repair, which moves it aside"
        raise NotADirectoryError(errno.ENOTDIR, text, link)
