"""The spec language: what a ModelService and a Project may say. Field constraints only; meaning is judged in passes/."""
