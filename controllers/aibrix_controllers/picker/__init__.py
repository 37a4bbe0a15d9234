"""The gateway's picker: which replica answers a request, as an Endpoint Picker that Envoy asks over ext_proc."""
