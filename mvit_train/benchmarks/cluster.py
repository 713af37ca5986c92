"""How long a data-parallel step takes on a cluster: the computing of one GPU, and what of the gradients' exchange its
backward pass does not hide."""

import math
from dataclasses import dataclass

BACKWARD = 2 / 3  # of the time of a step: a backward pass costs two forward ones


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Links between the processes of a run, 1e9 bytes per second in each direction.

    Args:
        per_node: processes on a node.
        link: of a process to the others of its node.
        node_link: of a node to the others; its processes share it.
        latency: seconds of one message.
        bucket_bytes: of gradients that are exchanged together; the last bucket is only there when backward ends.
        overlap: share of the backward pass during which gradients travel without slowing it down.
    """

    per_node: int
    link: float
    node_link: float
    latency: float
    bucket_bytes: float = 25e6
    overlap: float = 1.0

    def exchange_sec(self, num_bytes: float, processes: int) -> float:
        """Seconds of an all-reduce of so many bytes: a ring within each node, and one between the nodes."""
        local = min(processes, self.per_node)
        nodes = math.ceil(processes / self.per_node)
        inside = 2 * (local - 1) / local * num_bytes / self.link / 1e9
        between = 2 * (nodes - 1) / nodes * num_bytes / self.node_link / 1e9
        return inside + between + 2 * (local + nodes - 2) * self.latency

    def step_sec(self, compute_sec: float, num_bytes: float, processes: int) -> float:
        """Seconds of a step that takes compute_sec in one process alone, with num_bytes of gradients."""
        if processes == 1:
            return compute_sec
        buckets = max(1, math.ceil(num_bytes / self.bucket_bytes))
        last = self.exchange_sec(num_bytes / buckets, processes)
        hidden = self.overlap * BACKWARD * compute_sec
        return compute_sec + last + max(0.0, (buckets - 1) * last - hidden)
