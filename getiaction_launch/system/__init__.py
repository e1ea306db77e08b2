"""Processes, signals, memory and GPUs of this machine."""
