"""This machine: devices, ceilings, locks, processes, conditions and energy."""
