"""What this machine is and does: devices, ceilings, locks, processes, conditions and energy."""
