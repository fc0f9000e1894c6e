"""Latency: measured on this machine, of any module and any shape, and predicted from a few shapes.

Everything here holds for the device that the model lies on, for its inputs and for the number of
threads of torch.

`clock` tells the time on a device, `timing` measures a model or one of its modules, `samples` times
a traced model operation by operation in several shapes, and `prediction` learns from such samples.
"""

from ramify.latency.clock import Clock, HostClock, ThreadClock
from ramify.latency.prediction import LatencyModel, learn
from ramify.latency.samples import Sample, draw_shapes, observe
from ramify.latency.timing import Latency, measure, measure_edited, prices

__all__ = [
    "Clock",
    "HostClock",
    "Latency",
    "LatencyModel",
    "Sample",
    "ThreadClock",
    "draw_shapes",
    "learn",
    "measure",
    "measure_edited",
    "observe",
    "prices",
]
