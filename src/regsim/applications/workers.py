"""Processes that work through a list: few tasks in flight, and a process that dies takes no other task with it."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait as wait_for_end
from typing import Generic, TypeVar

import torch

from regsim.kernels.memory import keep_freed_memory

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class WorkList(Generic[Task, Result]):
    """Works through tasks in processes of their own.

    Processes are started afresh (spawn), so a program that uses this needs `if __name__ == "__main__":`. They end with the
    process that started them, whatever ended that one, and leave Ctrl-C to it.

    Args:
        work: done in the processes; a function of a module. It catches what may go wrong with one task.
        workers: how many processes.
        threads: of torch in each.
    """

    def __init__(self, work: Callable[[Task], Result], workers: int, threads: int):
        self.work, self.workers, self.threads = work, workers, threads

    def run(self, tasks: Iterable[Task], each: Callable[[Task, Result | None], None]) -> None:
        """Call `each` with every task and its result, in the order in which they end; None where the task's process died.

        When a process dies, all tasks in flight are tried once more, alone, to tell which of them it was.
        """
        waiting = deque(tasks)
        while waiting:
            for task in self._until_broken(waiting, self.workers, each):
                for lost in self._until_broken(deque([task]), 1, each):
                    each(lost, None)

    def _until_broken(
        self, waiting: deque[Task], workers: int, each: Callable[[Task, Result | None], None]
    ) -> list[Task]:
        """Work until nothing is waiting or a process has died; the tasks that were in flight then."""
        running: dict[Future[Result], Task] = {}
        with self._executor(min(workers, len(waiting))) as executor, suppress(BrokenProcessPool):
            while waiting or running:
                while waiting and len(running) < workers:
                    running[executor.submit(_shielded, self.work, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    each(running.pop(future), result)
        return list(running.values())

    @contextmanager
    def _executor(self, workers: int) -> Iterator[ProcessPoolExecutor]:
        before = set(multiprocessing.active_children())
        spawn = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(workers, spawn, _prepare, (self.threads,))
        try:
            yield executor
        except BaseException:
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _prepare(threads: int) -> None:
    """In a new process, before its first task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # last: until here there is nothing to tidy up


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_end([parent.sentinel])
        os._exit(1)


def _shielded(work: Callable[[Task], Result], task: Task) -> Result:
    """Do a task; a process that is told to end removes what it has half written, and ends."""
    try:
        return work(task)
    except SystemExit:
        os._exit(1)
