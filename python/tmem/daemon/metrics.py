# SPDX-License-Identifier: Apache-2.0
"""The host's numbers for Prometheus, on the loopback, when a port is given.

Owns: the names of the metrics. Called by main, and only then imported. Calls rows. The web server has a thread of its
own; it asks the loop for the numbers, so that it never reads what is being changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

from tmem.daemon.config import ConfigError

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector
except ImportError:
    raise ConfigError(
        "metrics need the package prometheus-client: pip install 'tmem[host]', or leave the port out"
    ) from None

__all__ = ["Metrics"]

_LOOPBACK: Final = "127.0.0.1"
_SECONDS: Final = 2.0
_GAUGES: Final = {
    "capacity": ("capacity_bytes", "What may be leased."),
    "leased_bytes": ("leased_bytes", "What guests hold."),
    "free_bytes": ("free_bytes", "What nobody holds."),
    "freeable_bytes": ("freeable_bytes", "What can be taken back at once."),
    "guests": ("guests", "Connections."),
    "pools": ("shared_pools", "Shared pools with a member."),
    "pressure": ("pressure_ratio", "The part of ten seconds in which somebody waited for memory."),
}


class Metrics(Collector):
    """Answers at `port` until it is closed. `numbers` gives a host's row; it is called in the loop's thread."""

    def __init__(self, numbers: Callable[[], dict[str, Any]], loop: asyncio.AbstractEventLoop, port: int) -> None:
        self._numbers, self._loop = numbers, loop
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, addr=_LOOPBACK, registry=registry)
        except OSError as error:
            raise ConfigError(f"port {port} cannot be had for metrics ({error.strerror}): give another") from None

    def close(self) -> None:
        """Stop answering. Not in the loop's thread while a question is under way: that waits for the loop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def describe(self) -> list[Metric]:
        """Return nothing: what there is shows when it is asked for."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers as they are now."""

        async def ask() -> dict[str, Any]:
            return self._numbers()

        row = asyncio.run_coroutine_threadsafe(ask(), self._loop).result(_SECONDS)
        for field, (name, help_text) in _GAUGES.items():
            yield GaugeMetricFamily(f"tmem_host_{name}", help_text, row[field])
        counters = dict(row["counters"])
        refused = CounterMetricFamily("tmem_host_refused", "Questions refused, by reason.", labels=["reason"])
        for reason, count in counters.pop("refused").items():
            refused.add_metric([reason], count)
        yield refused
        for name, count in counters.items():
            yield CounterMetricFamily(f"tmem_host_{name}", f"How often: {name.replace('_', ' ')}.", count)
