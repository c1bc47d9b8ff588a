"""The place of a directory store: its folders, its identity, and whether it is still there."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, final

from ..._errors import StoreIdentityError, StoreNotFoundError
from ..._identity import new_identity
from .._files import UnsyncedFolderError, make_folder, make_folders, sync_folder, sync_name
from .leftovers import remove_leftovers
from .marks import create_mark, read_mark, replace_mark
from .names import TemporaryNames

if TYPE_CHECKING:
    from collections.abc import Generator

    from .._access import Access

IDENTITY: Final = "store-id"
"""The file that has the identity. It is in the root and, if the blobs are apart, also in their folder."""

SESSION: Final = "session-mark"
"""The file that has the mark of the last session."""

APART: Final = "blobs-apart"
"""The file whose presence says that the folder of the blobs has the identity, too."""


@final
class Place:
    """The place of one directory store, ``ROOT``.

    Blobs are in ``ROOT/blobs``, and files that are no blobs yet in ``ROOT/tmp``. Where ``ROOT/blobs`` is on another
    file system than ``ROOT/tmp``, or ``ROOT/tmp`` is a symbolic link, no file in ``ROOT/tmp`` can get the name of a
    blob. Then such files are in ``ROOT/blobs/tmp``, and damaged ones in ``ROOT/blobs/damaged``.

    The blobs are apart where that is so, and also where ``ROOT/blobs`` is a symbolic link on one file system. Then the
    identity is in ``ROOT/blobs/store-id`` as well, so that the store notices when the blobs are not mounted.
    ``ROOT/blobs-apart`` says that this is so.
    """

    def __init__(self, root: str, access: Access, *, durable: bool) -> None:
        self.root = root
        self.access = access
        self.durable = durable
        self.blobs: str = f"{root}/blobs"
        self.temporary: str = f"{root}/tmp"  # noqa: S108  (not the system's)
        self.can_link: bool = True
        """Whether a file can have two names, so that exactly one of several processes gives a blob its name."""
        self._names = TemporaryNames()
        self._identity: str | None = None
        self._marks = [f"{root}/{IDENTITY}"]

    @property
    def damaged(self) -> str:
        """The folder of files set aside. It is beside the temporary files, so on the file system of the blobs."""
        return f"{os.path.dirname(self.temporary)}/damaged"

    # Opening

    def prepare(self) -> None:
        """Find the store and read its identity. Unless it is read-only, create the store or the identity if missing.

        Raises:
          StoreNotFoundError: if there is no store, and none may be created.
          StoreIdentityError: if the blobs are apart, and belong to another store.
          ReplicaError: if something else has the name of the identity.
          OSError: if the system refuses.

        """
        with self._explained():
            if not _is_folder(self.blobs):
                self._check_never_made()
                if not self.access.may_create:
                    raise StoreNotFoundError(self.root)
            self._find_marks()
            if not self.access.read_only:
                self._prepare_to_write()

    def _check_never_made(self) -> None:
        """Refuse to begin with an empty folder if a store has lost its blobs. Reads would report all as not found."""
        if read_mark(self._marks[0]) is not None:
            text = f"The blobs of the store are gone: restore them, or remove {IDENTITY} beside them for an empty store"
            raise FileNotFoundError(errno.ENOENT, text, self.blobs)

    def _find_marks(self) -> None:
        self._identity = read_mark(self._marks[0])
        apart = read_mark(f"{self.root}/{APART}")
        if apart is not None and not self._is_half_renewed(apart):
            self._check_blobs(self._identity or apart)

    def _is_half_renewed(self, apart: str) -> bool:
        """Whether a process was killed while it renewed the identity of a store whose blobs are apart.

        Then the root still has the old one. Opening it to write finishes the renewal. Until then, the store is known by
        the two places that have the new one.
        """
        path = f"{self.blobs}/{IDENTITY}"
        if self._identity in (None, apart) or read_mark(path) != apart:
            return False
        if self.access.read_only:
            self._marks = [path, f"{self.root}/{APART}"]
        else:
            for folder in (self.blobs, self.root):  # who was killed may not have come to it
                self._sync_marks(folder)
            replace_mark(self._marks[0], apart, self.new_path(self.root))
            self._marks.append(path)
        self._identity = apart
        return True

    def _check_blobs(self, identity: str) -> None:
        """Check that blobs that are apart belong to the store, and record it so that later openings can check."""
        path = f"{self.blobs}/{IDENTITY}"
        if (found := read_mark(path)) != identity:
            raise StoreIdentityError(self.blobs, identity, found)
        self._marks.append(path)

    def _prepare_to_write(self) -> None:
        if self.access.may_create:
            make_folders(self.root, durable=self.durable)
            make_folder(self.blobs)
        elif self.durable:
            sync_name(self.root)  # the process that created it may not have
        is_apart = not self._choose_temporary()
        if self._identity is None:
            self._identity = self._created_identity(is_apart)
        if is_apart and len(self._marks) == 1:
            for folder, name in ((self.blobs, IDENTITY), (self.root, APART)):
                create_mark(f"{folder}/{name}", self._identity, self.new_path(folder))
                self._sync_marks(folder)
            self._check_blobs(self._identity)
        self._sync_marks(self.root)  # also where the identity was found: who made it may have been killed before this
        # ROOT/blobs may be a link. Then blobs/store-id has just proved that it leads to the blobs of this store.
        for folder, *inner in ([self.root], [self.blobs], os.path.split(self.temporary)):
            with suppress(OSError):  # they do no harm
                remove_leftovers(self._names, folder, *inner)

    def _created_identity(self, is_apart: bool) -> str:
        """Give the store an identity, taken from its blobs if they have one, unless another process is first."""
        path = self._marks[0]
        brought = read_mark(f"{self.blobs}/{IDENTITY}") if is_apart else None
        try:
            create_mark(path, brought or new_identity(), self.new_path(self.root))
        except PermissionError as error:
            text = f"{error.strerror}: the store has no identity yet, and none can be created"
            raise PermissionError(error.errno, text, path) from error
        identity = read_mark(path)
        if identity is None:
            raise self._vanished()
        return identity

    def _choose_temporary(self) -> bool:
        """Choose the folder of temporary files, and return whether it is ``ROOT/tmp``."""
        if not os.path.islink(self.temporary):
            make_folder(self.temporary)
            if self._is_beside_blobs():
                return not os.path.islink(self.blobs)
        self.temporary = f"{self.blobs}/tmp"  # noqa: S108  (likewise)
        make_folder(self.temporary)
        if not self._is_beside_blobs():
            text = "This has to be a folder on the same file system as its parent"
            raise OSError(errno.EXDEV, text, self.temporary)
        return False

    def _is_beside_blobs(self) -> bool:
        """Return whether a temporary file can get a name in the folder of blobs. Notes whether links work for that."""
        old, new = self.new_path(), self.new_path(self.blobs)
        os.close(os.open(old, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        try:
            try:
                os.link(old, new)
            except OSError:  # errors of a file system without hard links: EPERM, ENOTSUP, EMLINK, …
                self.can_link = False
                os.rename(old, new)
            else:
                self.can_link = True
        except OSError as error:
            if error.errno == errno.EXDEV:
                return False
            raise
        finally:
            for path in (old, new):
                with suppress(FileNotFoundError):
                    os.unlink(path)
        return True

    @contextmanager
    def _explained(self) -> Generator[None, None, None]:
        """Add a remedy to the errors that have one."""
        try:
            yield
        except UnsyncedFolderError as error:
            text = (
                f"{error.strerror}: the file system of {error.filename} can't sync folders, so a power cut may lose "
                f"blobs; open the store with durable=False if it may"
            )
            raise OSError(error.errno, text, self.root) from error
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            text = f"{error.strerror}: open the store with read_only=True to read its blobs"
            raise OSError(error.errno, text, self.root) from error

    # While it is open

    def check_present(self) -> None:
        """Check that the store has not been removed, replaced or unmounted.

        Inode numbers can't show this, because some file systems make them up and change them.

        Raises:
          FileNotFoundError: if it has vanished.
          StoreIdentityError: if another store has replaced it.

        """
        if self._identity is not None:
            for path in self._marks:
                found = read_mark(path)
                if found is None:
                    raise self._vanished()
                if found != self._identity:
                    raise StoreIdentityError(self.root, self._identity, found)
        if not _is_folder(self.blobs):
            raise self._vanished()

    def _vanished(self) -> FileNotFoundError:
        return FileNotFoundError(errno.ENOENT, "The directory store has vanished", self.root)

    def identity(self) -> str | None:
        """Return the identity: see `Store.identity`."""
        if self._identity is not None and (found := read_mark(self._marks[0])) != self._identity:
            raise StoreIdentityError(self.root, self._identity, found)
        return self._identity

    def session_mark(self) -> str | None:
        """Return the mark of the last session: see `Store.session_mark`."""
        self.check_present()
        return read_mark(f"{self.root}/{SESSION}")

    def set_session_mark(self, mark: str) -> None:
        """Keep the mark of a session: see `Store.set_session_mark`."""
        self.check_present()
        replace_mark(f"{self.root}/{SESSION}", mark, self.new_path(self.root))
        if self.durable:
            sync_folder(self.root)
        self.check_present()

    def renew_identity(self) -> str:
        """Give the store a new identity, and forget the mark of the last session.

        The mark goes first, because it must not be found beside the new identity. The root gets the identity last, so
        that a store whose process was killed midway can be opened: see `_is_half_renewed`.
        """
        self.check_present()
        identity = new_identity()
        with suppress(FileNotFoundError):
            os.unlink(f"{self.root}/{SESSION}")
        self._sync_marks(self.root)
        paths = [f"{self.root}/{APART}", *reversed(self._marks)] if len(self._marks) > 1 else self._marks
        for path in paths:
            folder = os.path.dirname(path)
            replace_mark(path, identity, self.new_path(folder))
            self._sync_marks(folder)
        self._identity = identity
        return identity

    def _sync_marks(self, folder: str) -> None:
        """Sync the name of an identity, also for a store that is not durable: an outbox may note the identity next.

        An outbox that is on the disk would refuse the store if a power cut took the identity from it.
        """
        try:
            sync_folder(folder)
        except UnsyncedFolderError:
            if self.durable:
                raise

    def new_path(self, folder: str | None = None) -> str:
        """Return the path of a temporary file that no other thread or process writes."""
        return f"{folder or self.temporary}/{self._names.draw()}"

    def make_temporary_again(self) -> None:
        """Create the folder of temporary files again after its removal, but not its parents: they may be unmounted."""
        self.check_present()
        make_folder(self.temporary)

    def sync_folder(self, path: str) -> None:
        """Wait until the names in a folder are on the disk. The error has a remedy if that is impossible."""
        with self._explained():
            sync_folder(path)


def _is_folder(path: str) -> bool:
    """Return whether a path is a folder or a link to one. Raises `OSError` if it can't be read."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
