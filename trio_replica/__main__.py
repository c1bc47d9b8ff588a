"""The entry point of the command line, which needs packages that the library does not."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line on this process's arguments, and return its exit status.

    Raises:
      SystemExit: with a message, if a package is missing.

    """
    try:
        from . import cli  # noqa: PLC0415  (here, so that its absence can be told)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package not in {"click", "rich"}:
            raise
        sys.exit(f"trio-replica: the command line needs {package}: pip install 'trio-replica[cli]'")
    except KeyboardInterrupt:
        return 130
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
