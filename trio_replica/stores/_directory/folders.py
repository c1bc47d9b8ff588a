"""The folders of blobs, which have to be folders and no symbolic links."""

from __future__ import annotations

import errno
import os
from typing import Final

from .._files import make_folder
from .names import no_folder_above

NOT_FOLLOWED: Final = frozenset({errno.ENOTDIR, errno.ELOOP})
"""The errors of opening a symbolic link as a folder without following it, on Linux and elsewhere."""


def make_folders_of_blob(folder: str) -> None:
    """Create the folder of a blob, and the one above it, if they are not there; not the one of all blobs."""
    top = os.path.dirname(folder)
    if os.path.islink(top):
        check_folders(folder)
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        make_folder(top)
        make_folder(folder)
    except FileExistsError:
        check_folders(folder)


def check_folders(folder: str) -> None:
    """Check that the folder of a blob and the one above it are folders, as far as they are there.

    Nothing is written through a symbolic link, which may lead into another store.
    """
    if (path := no_folder_above(folder)) is not None:
        raise taken_name(path)


def taken_name(path: str) -> NotADirectoryError:
    """Return the error that something else has the name of a folder of blobs."""
    what = "A symbolic link" if os.path.islink(path) else "Something that is no folder"
    text = f"{what} has the name of a folder of blobs; scrub the store with repair, which moves it aside"
    return NotADirectoryError(errno.ENOTDIR, text, path)
