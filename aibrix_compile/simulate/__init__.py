"""A service against a trace of requests, with the decisions of the cluster; `trace` and `generate` say what arrives."""
