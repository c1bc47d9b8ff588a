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
from .mounts import NOTHING, Mounts
from .names import APART, IDENTITY, SESSION, TemporaryNames, is_folder, landmark, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .._access import Access
    from .mounts import Mounted

_WRONG_DISK: Final = "check which disk is mounted there, and mount the store's own again"

_WRONG_BLOBS: Final = f"{_WRONG_DISK}; if it is lost, remove {IDENTITY} and {APART} beside the folder to begin empty"

_COVERED: Final = (
    "unmount or remove what has taken the place of its blobs, or, if you moved them there, copy {root}/store-id to "
    "{blobs}/store-id"
)


@final
class Place:
    """The place of one directory store, ``ROOT``.

    Blobs are in ``ROOT/blobs``, and files that are no blobs yet in ``ROOT/tmp``. Where ``ROOT/blobs`` is on another
    file system than ``ROOT/tmp``, or ``ROOT/tmp`` is a symbolic link, no file in ``ROOT/tmp`` can get the name of a
    blob. Then such files are in ``ROOT/blobs/tmp``, and damaged ones in ``ROOT/blobs/damaged``.

    The blobs are apart where ``ROOT/blobs`` is a symbolic link, or something is mounted there. Then the identity is in
    ``ROOT/blobs/store-id`` as well, so that the store notices when its blobs are not mounted. ``ROOT/blobs-apart`` says
    that this is so. In a store whose blobs are not apart, nothing else may take the place of ``ROOT/blobs``, and in no
    store may anything be mounted over folders of blobs, because it would hide blobs that are not missing.
    """

    def __init__(self, root: str, access: Access, *, durable: bool, watch: Callable[[str], Mounts] = Mounts) -> None:
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
        self._watch = watch
        self._mounts: Mounts | None = None
        self._device = -1  # of the blobs, while they are not apart
        self._seen: tuple[int, bool, bool] | None = None  # where the blobs are, if there is no identity
        self._is_apart = False
        self._is_marked = False  # by ROOT/blobs-apart

    def close(self) -> None:
        """End the use of the place."""
        if self._mounts is not None:
            self._mounts.close()

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
          OSError: if the system refuses, or something is mounted over a folder of blobs.

        """
        with self._explained():
            if not is_folder(self.blobs):
                self._check_never_made()
            if not self.access.may_create and status_of(landmark(self.root)) is None:
                raise StoreNotFoundError(self.root)
            self._mounts = self._watch(self.root)
            self._find_marks()
            if not self.access.read_only:
                self._prepare_to_write()
            self._check_blobs_in_place()

    def _check_never_made(self) -> None:
        """Refuse to begin with an empty folder if a store has lost its blobs. Reads would report all as not found."""
        if read_mark(self._marks[0]) is not None:
            marks = IDENTITY if status_of(f"{self.root}/{APART}") is None else f"{IDENTITY} and {APART}"
            text = f"The blobs of the store are gone: restore them, or remove {marks} beside them to begin empty"
            raise FileNotFoundError(errno.ENOENT, text, self.blobs)

    def _find_marks(self) -> None:
        self._identity = read_mark(self._marks[0])
        self._is_apart = is_folder(self.blobs) and self._are_blobs_apart()
        apart = read_mark(f"{self.root}/{APART}")
        self._is_marked = apart is not None
        if apart is not None:
            if not self._is_half_renewed(apart):
                self._check_blobs(self._identity or apart, _WRONG_BLOBS)
                if self._identity is None:  # its process was killed before; opening it to write puts it there
                    self._identity = apart
                    self._marks = self._marks_without_root() if self.access.read_only else self._marks
        elif self._identity is not None and self._is_apart:
            self._check_blobs(self._identity, self._covered)

    def _are_blobs_apart(self) -> bool:
        """Return whether the blobs are not just in a folder of the root: behind a link, or mounted there."""
        if os.path.islink(self.blobs) or self._mounted().over_blobs:
            return True
        device = os.stat(self.blobs).st_dev
        if device != os.stat(self.root).st_dev:
            return True
        self._device = device
        return False

    def _mounted(self) -> Mounted:
        """Return what hides the folder of blobs.

        Raises:
          OSError: if something is mounted over a folder of blobs, or over a blob.

        """
        mounted = NOTHING if self._mounts is None else self._mounts.look()
        if mounted.inside:
            text = "Something is mounted here, which hides blobs of the store; unmount it"
            raise OSError(errno.EXDEV, text, mounted.inside)
        return mounted

    def _is_half_renewed(self, apart: str) -> bool:
        """Whether a process was killed while it renewed the identity of a store whose blobs are apart.

        Then the root still has the old one. Opening it to write finishes the renewal. Until then, the store is known by
        the two places that have the new one.
        """
        path = f"{self.blobs}/{IDENTITY}"
        if self._identity in (None, apart) or read_mark(path) != apart:
            return False
        if self.access.read_only:
            self._marks = self._marks_without_root()
        else:
            for folder in (self.blobs, self.root):  # a killed process may not have synced it
                self._sync_marks(folder)
            replace_mark(self._marks[0], apart, self.new_path(self.root))
            self._marks.append(path)
        self._identity = apart
        return True

    def _marks_without_root(self) -> list[str]:
        return [f"{self.blobs}/{IDENTITY}", f"{self.root}/{APART}"]

    @property
    def _covered(self) -> str:
        return _COVERED.format(root=self.root, blobs=self.blobs)

    def _check_blobs(self, identity: str, remedy: str) -> None:
        """Check that blobs that are apart belong to the store."""
        path = f"{self.blobs}/{IDENTITY}"
        if (found := read_mark(path)) != identity:
            raise StoreIdentityError(self.blobs, identity, found, remedy)
        self._marks = [f"{self.root}/{IDENTITY}", path]

    def _prepare_to_write(self) -> None:
        if self.access.may_create:
            make_folders(self.root, durable=self.durable)
            make_folder(self.blobs)
        elif self.durable:
            sync_name(self.root)  # the process that created it may not have
        is_link = os.path.islink(self.temporary)
        if not is_link:
            make_folder(self.temporary)
        can_give_names = not is_link and self._is_beside_blobs()
        self._is_apart = self._are_blobs_apart() or not (can_give_names or is_link or self._is_temporary_apart())
        if self._is_apart and not self._is_marked:
            self._mark_apart()
        if not can_give_names:
            self._put_temporary_beside_blobs()
        identity = self._created(self.root, IDENTITY, self._identity or new_identity())
        if identity != (self._identity or identity):
            raise StoreIdentityError(self.root, self._identity, identity)
        self._identity = identity
        # ROOT/blobs may be a link. Then blobs/store-id has just proved that it leads to the blobs of this store.
        for folder, *inner in ([self.root], [self.blobs], os.path.split(self.temporary)):
            with suppress(OSError):  # they do no harm
                remove_leftovers(self._names, folder, *inner)

    def _mark_apart(self) -> None:
        """Record that the blobs are apart, so that later openings can check where they are.

        The blobs get the identity first, and the root gets it last, so that a store whose process was killed midway can
        be opened. Where only the root has it, the blobs are those of another store, or none.
        """
        if self._identity is None:
            self._identity = self._created(self.blobs, IDENTITY, new_identity())
        self._check_blobs(self._identity, self._covered)
        if (apart := self._created(self.root, APART, self._identity)) != self._identity:
            raise StoreIdentityError(f"{self.root}/{APART}", self._identity, apart)

    def _created(self, folder: str, name: str, mark: str) -> str:
        """Return the mark that a file has. It is created with `mark`, unless another process is first."""
        path = f"{folder}/{name}"
        if read_mark(path) is None:
            try:
                create_mark(path, mark, self.new_path(folder))
            except PermissionError as error:
                text = f"{error.strerror}: the store has no identity yet, and none can be created"
                raise PermissionError(error.errno, text, path) from error
        found = read_mark(path)
        if found is None:
            raise self._vanished()
        self._sync_marks(folder)  # also if it was found, because a killed process may have created it
        return found

    def _is_temporary_apart(self) -> bool:
        """Return whether something is mounted over ``ROOT/tmp``, so that no file in it can get a name elsewhere."""
        return self._mounted().over_temporary or os.stat(self.temporary).st_dev != os.stat(self.root).st_dev

    def _put_temporary_beside_blobs(self) -> None:
        self.temporary = f"{self.blobs}/tmp"  # noqa: S108  (not the system's)
        make_folder(self.temporary)
        if not self._is_beside_blobs():
            text = "This has to be a folder on the same file system as its parent"
            raise OSError(errno.EXDEV, text, self.temporary)

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
            raise self._unsynced(error) from error
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            text = f"{error.strerror}: open the store with read_only=True to read its blobs"
            raise OSError(error.errno, text, self.root) from error

    def _unsynced(self, error: UnsyncedFolderError) -> OSError:
        text = (
            f"{error.strerror}: the file system of {error.filename} can't sync folders, so a power cut may lose blobs; "
            f"open the store with durable=False if it may"
        )
        return OSError(error.errno, text, self.root)

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
                    raise StoreIdentityError(self.root, self._identity, found, _WRONG_DISK)
        self._check_blobs_in_place()

    def _check_blobs_in_place(self) -> None:
        """Check that the blobs are still there, and that nothing else is in their place or hides some of them."""
        mounted = self._mounted()
        status = status_of(self.blobs)
        if status is None:
            raise self._vanished()
        is_own = stat.S_ISDIR(status.st_mode) and status.st_dev == self._device and self._identity is not None
        if is_own and not self._is_apart and not mounted.over_blobs:
            return
        if not is_folder(self.blobs):
            raise self._vanished()
        if self._identity is None:  # it is read-only, and known only by where its blobs were when it was opened
            seen = os.stat(self.blobs).st_dev, os.path.islink(self.blobs), mounted.over_blobs
            self._seen = self._seen or seen
            if seen != self._seen:
                raise self._vanished()
        elif not self._is_apart and self._are_blobs_apart():
            found = read_mark(f"{self.blobs}/{IDENTITY}")
            if found != self._identity:
                raise StoreIdentityError(self.blobs, self._identity, found, self._covered)

    def _vanished(self) -> FileNotFoundError:
        text = "The directory store has vanished; mount its disk again, or restore its folders"
        return FileNotFoundError(errno.ENOENT, text, self.root)

    def identity(self) -> str | None:
        """Return the identity: see `Store.identity`."""
        if self._identity is not None and (found := read_mark(self._marks[0])) != self._identity:
            raise StoreIdentityError(self.root, self._identity, found, _WRONG_DISK)
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

    def sync_folder(self, path: str, *, is_followed: bool = True) -> None:
        """Wait until the names in a folder are on the disk. The error has a remedy if that is impossible."""
        try:
            sync_folder(path, is_followed=is_followed)
        except UnsyncedFolderError as error:
            raise self._unsynced(error) from error
