"""What a cluster needs once: the two kinds, access, Argo CD's health checks and plugin."""
