"""Imported first by the command-line scripts: while they import the other modules, Ctrl-C ends them at once.

Importing PyTorch takes seconds. It leaves nothing to clean up, but KeyboardInterrupt would print a traceback, and some
libraries ignore it. When its imports are done, a script creates a `dnnlib.cli.Command`; from then on Ctrl-C raises it.
"""

import signal
from contextlib import suppress

# Ctrl-C may be ignored (nohup), or handled by the program that imports a script. Only the main thread can set handlers.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
