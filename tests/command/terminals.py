"""The command in a real pseudo-terminal, whose keys can be pressed when something is read."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from pathlib import Path

CTRL_C = b"\x03"


def in_terminal(folder: Path, *arguments: str, columns: int = 80, keys=(), limit: float = 300, **environment: str):
    """Runs ``python -m jattn``; returns its status, and all that it wrote.

    Args:
      folder: where it runs.
      *arguments: of the command.
      columns: the width of the terminal.
      keys: pairs of a pattern and a delay: so many seconds after the pattern was read first, Ctrl-C is pressed.
      limit: the seconds after which it is killed.
      **environment: variables besides those of this process.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        variables = {**os.environ, "TERM": "xterm", **environment}
        variables.pop("COLUMNS", None)
        os.execvpe(sys.executable, [sys.executable, "-m", "jattn", *arguments], variables)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
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
        os.kill(pid, 9)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


def lines_of(written: str) -> list[str]:
    """Returns what is left on the lines of a terminal whose last line is written again and again."""
    plain = re.sub(r"\x1b\[\?25[lh]|\x1b\[1A|\^C", "", written)
    lines = [line.split("\x1b[2K")[-1].split("\r")[-1] for line in plain.replace("\r\n", "\n").split("\n")]
    return [line for line in lines if line]
