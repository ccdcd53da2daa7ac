"""The process that looks at checkpoints for a service, under limits that the service could not set on itself.

Started as ``python -m spinal.checkpoints.child SECONDS MEGABYTES``; answers one question after the other, and ends with
whoever started it. It holds no connection, no secret and nothing that is needed after it.
"""

import ctypes
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

from spinal.checkpoints.copies import NotAtHand
from spinal.checkpoints.folders import expand_folder
from spinal.checkpoints.survey import survey
from spinal.checkpoints.wire import (
    Closed,
    Message,
    heard_copies,
    receive,
    send,
    told_error,
    told_folder,
    told_survey,
)
from spinal.errors import SpinalError
from spinal.errors.faults import is_of_the_system, lacks_memory

GRACE_S = 5
"""Whoever asks ends this process in time; should it be gone itself, the alarm does."""
KEEPS = 0.5
"""Of the memory allowed; a child that keeps more from one question to the next ends, and a fresh one follows."""


def main() -> None:
    seconds, megabytes = int(sys.argv[1]), int(sys.argv[2])
    questions, answers = _channel()
    _limit(megabytes)
    try:
        send(answers, {"ready": True})
        while True:
            question = receive(questions)
            signal.alarm(seconds + GRACE_S)
            answer = _answer(question)
            signal.alarm(0)
            answer["ends"] = "exceeded" in answer or _kept() > KEEPS * megabytes * 2**20
            send(answers, answer)
            if answer["ends"]:
                return
    except Closed:
        return


def _channel() -> tuple[int, int]:
    """Descriptors for questions and answers; what libraries print goes nowhere."""
    questions, answers = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    return questions, answers


def _limit(megabytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20, megabytes * 2**20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A break typed at the service's terminal is the service's to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answer(question: Message) -> Message:
    try:
        roots = [Path(root) for root in question["roots"]]
        if "folder" in question:
            return told_folder(expand_folder(question["folder"], roots))
        return told_survey(survey(question["references"], roots, heard_copies(question["copies"])))
    except NotAtHand as missing:
        return {"needs": missing.reference}
    except SpinalError as error:
        return told_error(error)
    except BaseException as error:  # noqa: BLE001  a panic of Rust is no Exception, and one question must not end it
        if lacks_memory(error):
            return {"exceeded": "memory"}
        if is_of_the_system(error):
            return {"system": os.strerror(error.errno or 0) if isinstance(error, OSError) else type(error).__name__}
        return {"broken": "".join(traceback.format_exception(error))}


def _kept() -> int:
    """Bytes of memory in use, after what is free was given back."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
