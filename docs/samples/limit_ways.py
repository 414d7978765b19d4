# SPDX-License-Identifier: Apache-2.0
"""The ways to put a limit in force, how far each reaches."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import tmem

# A block
with tmem.limit("64M", swap="1G") as budget:
    inside = np.ones(1 << 20)  # 8 MiB
outside = np.ones(1 << 20)
print("block:", tmem.is_paged(inside), tmem.is_paged(outside))


# A function: all calls share the budget
@tmem.limit("64M", swap="1G")
def squares(count: int) -> float:
    return float(np.sum(np.arange(count, dtype="f8") ** 2))


print("function:", squares(1 << 22))


@tmem.limit("64M", swap="1G")
async def later() -> bool:
    await asyncio.sleep(0)
    return tmem.is_paged(np.ones(1 << 20))


print("coroutine:", asyncio.run(later()))

# A process
tmem.install("64M", swap="1G")
everywhere = np.ones(1 << 20)
tmem.uninstall()  # or never
print("process:", tmem.is_paged(everywhere))

# Threads and pools
started = threading.Event()


def late() -> None:
    started.wait()
    print("a thread that ran already:", tmem.is_paged(np.ones(1 << 20)))


early = threading.Thread(target=late)
early.start()
with budget, ThreadPoolExecutor(2) as pool:
    tasks = [pool.submit(np.ones, 1 << 20) for _ in range(3)]
    print("pool:", [tmem.is_paged(task.result()) for task in tasks])
    started.set()
    early.join()
