"""Decisions as pure functions: controllers act on them, the simulator replays them; time and chance are arguments."""
