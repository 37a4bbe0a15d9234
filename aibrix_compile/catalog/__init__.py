"""What the compiler knows of the world by itself: accelerators, models, engine versions; data files, read on demand."""
