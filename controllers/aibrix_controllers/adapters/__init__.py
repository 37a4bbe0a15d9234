"""The adapters controller: AdapterSets, and what replicas really serve, into loads and unloads."""
