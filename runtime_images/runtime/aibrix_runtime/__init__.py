"""The sidecar of an engine: artifacts in, adapters loaded and unloaded, load told, metrics under neutral names."""
