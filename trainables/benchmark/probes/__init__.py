"""Readings of the machine around a measurement: hardware, memory, GPU state (NVML), energy, and disturbance by others."""
