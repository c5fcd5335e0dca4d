"""``python -m moe4``: the moe4 program."""

import ctypes
import os
import sys

from moe4._library import library


def main() -> int:
    """Runs the program with this process's arguments and gives its exit status."""
    arguments = [b"moe4", *(os.fsencode(argument) for argument in sys.argv[1:])]
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    return library().moe4_main(len(arguments), argv)


if __name__ == "__main__":
    sys.exit(main())
