"""Ctrl-C and SIGTERM: a command says what became of its work, and ends soon."""

import os
import signal
import sys
import threading
import time
from types import FrameType

GRACE_S = 1.5
"""Seconds in which a command that measures unwinds by itself: a library's own code may run on for long without
looking at signals, and imports are such code."""
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


FETCHED = "what was fetched is kept: run it again to go on from there"


class Stopped(BaseException):
    """A signal came. Like KeyboardInterrupt no Exception, so that nothing takes it for a fault of its own, and unlike
    it not known to parsers and libraries, which would answer it in their way."""

    told = False
    """Whether somebody has said what goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(WORDS[signal.Signals(number)])
        self.exit_code = 128 + number
        self.word = WORDS[signal.Signals(number)]


def raise_on_signals(*, last_words: str | None) -> None:
    """From now on SIGINT and SIGTERM raise Stopped; a second one ends the process at once. With ``last_words`` the
    process is ended GRACE_S after the first one in any case, and they are said: what has written nothing need not be
    waited for. In a thread that is not the main one, where signals cannot be caught, nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        return

    def first(number: int, frame: FrameType | None) -> None:
        for each in WORDS:
            signal.signal(each, second)
        raise Stopped(number)

    def second(number: int, frame: FrameType | None) -> None:
        _end(number, None)

    if last_words is not None:
        _watch(last_words)
    for each in WORDS:
        # A parent that had it ignored, as nohup and background jobs of scripts do, meant that.
        if each != signal.SIGINT or signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, first)


def last_words_of(number: int, unwritten: str | None) -> str:
    """How a command ended, and what holds of its work as long as it has written no file."""
    word = WORDS[signal.Signals(number)]
    if not unwritten or written.is_set():
        return word
    return f"{word}; {unwritten}" + (f"; {FETCHED}" if fetched.is_set() else "")


def _watch(last_words: str) -> None:
    """A thread that learns of signals at once, also while the main thread is deep in a library."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while True:
            number = os.read(reading, 1)[0]
            if number in WORDS:
                break
        time.sleep(GRACE_S)
        _end(number, None if said.is_set() else last_words_of(number, last_words))

    threading.Thread(target=watch, daemon=True, name="spinal-signals").start()


said = threading.Event()
"""Set by the main thread when it has said the last words itself."""
fetched = threading.Event()
"""Set once something was fetched that is kept."""
written = threading.Event()
"""Set once a file was written: from then on a command that is stopped does not say that none was."""


def _end(number: int, words: str | None) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        # A bar that was being drawn has hidden the cursor.
        os.write(2, b"\r\x1b[K\x1b[?25h")
    if words is not None:
        os.write(2, words.encode() + b"\n")
    # Not brought in for this: where nothing has, there are none.
    held = sys.modules.get("spinal.checkpoints.held")
    if held is not None:
        held.remove_private_folders()
    os._exit(128 + number)
