"""Members of a sweep computed by workers of a Ray cluster, each written into the same store by whoever computed it.

The plan is fixed before anything is sent. A worker loads models into a pool of its own, with one thread, and gets
the member whose checkpoints it already holds where there is one. What a lost worker had not finished is given to
another; what is in the store is never computed again, so a driver that dies is simply started again.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analyses.core.analysis import get
from analyses.core.inputs import Loading, ModelPool
from analyses.core.run import execute, prepare, source_hash, stored
from analyses.core.store import Store
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from probe import Checkpoint

LOSSES = 20  # workers that may die in one sweep before it is given up
ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Engine:
    """Who computes: this process, or `workers` of a Ray cluster (at `address`, else one started here for the sweep)."""

    name: Literal["local", "ray"] = "local"
    workers: int = 2
    address: str | None = None


@dataclass(frozen=True)
class Task:
    """One member of a sweep: the analysis, everything given to it, and the checkpoints among that."""

    analysis: str
    given: Mapping[str, Any]
    limit: int | None
    checkpoints: tuple[Checkpoint, ...]


def code_identity() -> str:
    """Versions of the package, of its code and of Python: what driver and workers must share."""
    code = source_hash(Path(__file__))
    return f"posttrain-probe {version('posttrain-probe')} (code {code}), Python {platform.python_version()}"


class Worker:
    """What runs on a worker: a pool of models and the store. `driver`: the driver's `code_identity`."""

    def __init__(self, root: Store, loading: Loading, driver: str) -> None:
        import torch

        torch.set_num_threads(1)
        self.store, self.pool = root, ModelPool(loading)
        if driver != code_identity():
            raise InputError(f"worker on {socket.gethostname()} has {code_identity()}; the driver has {driver}")

    def ready(self) -> int:
        """Its process id, once it stands."""
        return os.getpid()

    def run(self, task: Task) -> None:
        """Compute a member unless it is there, and put it into the store."""
        call = prepare(get(task.analysis), dict(task.given), self.store, self.pool, task.limit)
        if stored(call, self.store) is None:
            self.store.shards.put(execute(call, self.pool))


def compute(tasks: Sequence[Task], store: Store, loading: Loading, engine: Engine, done: Callable[[int], None]) -> None:
    """Compute `tasks` on a cluster; afterwards every one of them is in the store. `done` is told how many are.

    Raises:
        InputError: an input the analysis refuses, or workers with other code than the driver's.
        ProbeError: no cluster at the address, or workers keep dying.
    """
    with _cluster(engine) as ray:
        resources = {"num_cpus": 1, "num_gpus": int(loading.device.startswith("cuda"))}
        make = ray.remote(**resources, max_restarts=0)(Worker)
        crew = [make.remote(store, loading, code_identity()) for _ in range(min(engine.workers, len(tasks)))]
        waiting, running, held = list(tasks), {}, {}
        finished = losses = 0
        while waiting or running:
            busy = {id(worker) for worker, _ in running.values()}
            for worker in (w for w in crew if id(w) not in busy and waiting):
                task = _next(waiting, held.get(id(worker), ()))
                running[worker.run.remote(task)] = (worker, task)
                held[id(worker)] = task.checkpoints
            (ref,), _ = ray.wait(list(running))
            worker, task = running.pop(ref)
            try:
                ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.ActorDiedError as error:
                _explain(error)
                losses += 1
                if losses > LOSSES:
                    raise ProbeError(
                        f"{losses} workers died; the last one: {error}. Finished members are kept."
                    ) from error
                crew[crew.index(worker)] = make.remote(store, loading, code_identity())
                waiting.insert(0, task)
            else:
                finished += 1
                done(finished)


def _next(waiting: list[Task], held: tuple[Checkpoint, ...]) -> Task:
    """Take the task that needs most of the checkpoints already held, the first of equals."""
    best = max(range(len(waiting)), key=lambda n: (len(set(waiting[n].checkpoints) & set(held)), -n))
    return waiting.pop(best)


def _explain(error: Any) -> None:
    """A worker that refused to start (other code) is no lost worker."""
    if "InputError" in str(error):
        told = str(error).rpartition("InputError: ")[2].splitlines()[0]
        raise InputError(told) from None


@contextmanager
def _cluster(engine: Engine) -> Iterator[Any]:
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs Ray: pip install 'posttrain-probe[dist]'") from error
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    os.environ.update({k: v for k, v in quiet.items() if k not in os.environ})
    shared: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": {"env_vars": ALONE}}
    if engine.address is None:
        own: dict[str, Any] = {"num_cpus": engine.workers, "include_dashboard": False}
        own["object_store_memory"] = 100 * 2**20  # members leave through the store, not through Ray
        ray.init(**shared, **own)
    else:
        _reachable(engine.address)
        ray.init(address=engine.address, **shared)
    try:
        yield ray
    finally:
        ray.shutdown()


def _reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ProbeError(f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`") from error
