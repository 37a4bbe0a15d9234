"""The Kubernetes API as controllers need it: objects listed and watched, patches, events, a Lease by which one of several leads."""
