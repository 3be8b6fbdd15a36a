"""When the processes end that read images."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess


def end_with_parent(_worker: int = 0) -> None:
    """End this process when its parent is killed, even before it has begun to work: a queue would keep it for ever."""
    parent = _parent()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def heed_only_the_parent(_worker: int) -> None:
    """Let a signal to all processes of a run not end its workers, whose end would end the run before it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return  # macOS
    parent = _parent().pid

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=wait, daemon=True).start()


def _parent() -> BaseProcess:
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process is the main one: it reads no images for another")
    return parent
