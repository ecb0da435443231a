"""The batches of one stage, in order; on a GPU the next ones are drawn while it works."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from regsim.training.lesson import Batch, Draw


def draw_batch(draw: Draw, size: int, seed: int) -> Batch:
    """One batch from a generator of its own."""
    return draw(size, torch.Generator().manual_seed(seed))


def batches(draw: Draw, size: int, seed_of: Callable[[int], int], steps: range, ahead: int = 0) -> Generator[Batch]:
    """A batch for each step. `seed_of(step)` is all that a batch depends on; `ahead` of them are drawn in a thread."""
    if not ahead:
        yield from (draw_batch(draw, size, seed_of(step)) for step in steps)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(1) as pool:
        try:
            for step in steps:
                waiting.append(pool.submit(draw_batch, draw, size, seed_of(step)))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
