"""Latency of any module at any shape: measured on this machine, or predicted from a few shapes.

All results are for the device that the model is on, for its inputs and for torch's number of
threads.

`clock` reads the time on a device, `timing` measures a model or one of its modules, `samples` times
a traced model operation by operation in several shapes, and `prediction` learns from these samples.
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
