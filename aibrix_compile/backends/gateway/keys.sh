#!/bin/bash
# The Secret's entries, one file for each tenant with a key on each line, as the file that Envoy reads; written again when they
# change. Arguments: folder of the entries, file to write, tenants.
from=$1 to=$2
shift 2
trap exit TERM  # PID 1 would be deaf otherwise, and the pod would stay for its whole grace
render() {
  echo 'resources:
- "@type": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig
  name: envoy.filters.http.api_key_auth
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth
    key_sources: [{header: authorization}, {header: x-api-key}]
    forwarding: {header: x-tenant, hide_credentials: true}
    credentials:'
  for tenant in "$@"; do
    if [ ! -f "$from/$tenant" ]; then
      echo "tenant $tenant has no entry in the Secret: it can not call" >&2
      continue
    fi
    while IFS=$' \t\r\n' read -r key || [ -n "$key" ]; do
      if [[ $key =~ ^[A-Za-z0-9._~+/=-]{8,200}$ ]]; then
        echo "    - {key: \"$key\", client: \"$tenant\"}"
      elif [ -n "$key" ]; then
        echo "a key of tenant $tenant is left out: 8 to 200 letters, digits and ._~+/=- make a key" >&2
      fi
    done <"$from/$tenant"
  done
}
while :; do
  now=$(for tenant in "$@"; do cksum "$from/$tenant" 2>&1; done)
  if [ "$now" != "$seen" ]; then
    render "$@" >"$to.new" && mv "$to.new" "$to" && seen=$now
    echo "keys of $# tenants written" >&2
  fi
  sleep 2
done
