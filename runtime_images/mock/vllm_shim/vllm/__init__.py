"""Stands where vLLM would be, so that a manifest with `docker.io/vllm/vllm-openai` runs unchanged against the mock."""
