"""The command in a real pseudo-terminal, whose keys can be pressed when something is read."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

CTRL_C = b"\x03"
IN_ITS_TERMINAL = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes the terminal of standard input that of its session, to which Ctrl-C goes."""

INSIDE_OF_C = """
import hashlib, sys, threading
inside = threading.Event()
threading.Thread(target=lambda: inside.wait() and print("compiling", flush=True), daemon=True).start()
sys.setswitchinterval(600)  # the other thread waits until this one lets it run: inside of C
inside.set()
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
"""Prints "compiling" when the main thread has no end, and runs no handlers."""


def in_terminal(
    folder: Path,
    *arguments: str,
    program=("-m", "jattn"),
    columns: int = 80,
    keys=(),
    limit: float = 300,
    **environment: str,
):
    """Runs ``python -m jattn``; returns its status, and all that it wrote.

    Args:
      folder: where it runs.
      *arguments: of the command.
      program: what Python runs.
      columns: the width of the terminal.
      keys: pairs of a pattern and a delay: so many seconds after the pattern was read first, Ctrl-C is pressed.
      limit: the seconds after which it is killed.
      **environment: variables besides those of this process.
    """
    variables = {**os.environ, "TERM": "xterm", **environment}
    variables.pop("COLUMNS", None)
    terminal, its = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # A process that JAX has started threads in must not fork: a new one takes the terminal, then becomes the command.
    process = subprocess.Popen(
        [sys.executable, "-c", IN_ITS_TERMINAL, sys.executable, *program, *arguments],
        stdin=its, stdout=its, stderr=its, cwd=folder, env=variables, start_new_session=True,
    )  # fmt: skip
    os.close(its)
    written, start, keys = b"", time.monotonic(), list(keys)
    while time.monotonic() - start < limit:
        if select.select([terminal], [], [], 0.01)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # all of its ends are closed
                break
            if not part:
                break
            written += part
        if keys and re.search(keys[0][0].encode(), written):
            time.sleep(keys.pop(0)[1])
            os.write(terminal, CTRL_C)
    else:
        process.kill()
    os.close(terminal)
    return process.wait(), written.decode()


def lines_of(written: str) -> list[str]:
    """Returns what is left on the lines of a terminal whose last line is written again and again."""
    plain = re.sub(r"\x1b\[\?25[lh]|\x1b\[1A|\^C", "", written)
    lines = [line.split("\x1b[2K")[-1].split("\r")[-1] for line in plain.replace("\r\n", "\n").split("\n")]
    return [line for line in lines if line]
