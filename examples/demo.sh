#!/bin/sh
# `make demo`: the main job on a realistic project, without a cluster and without a network.
set -eu
cd "$(dirname "$0")/02-environments"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
show() { printf '\n\033[1m$ %s\033[0m\n' "$*"; }

show "aibrix-compile build -o deploy"
aibrix-compile build -o "$out/deploy" 2>&1 | sed "s|$out/||"
show "find deploy -type f"
(cd "$out" && find deploy -name '*.yaml' | sort)

show "aibrix-compile explain services/support-chat.yaml engine.maxModelLen"
aibrix-compile explain services/support-chat.yaml engine.maxModelLen
show "aibrix-compile explain services/support-chat.yaml pools[0].accelerator -e prod"
aibrix-compile explain services/support-chat.yaml 'pools[0].accelerator' -e prod

cd ../04-scaling
show "aibrix-compile simulate . --service chat --compare routing.strategy=cost,least-request"
aibrix-compile simulate . --service chat --compare routing.strategy=cost,least-request
cd ../02-environments

cp -r . "$out/broken"
cd "$out/broken"
sed -i.bak 's/accelerator: nvidia-l4/accelerator: nvidia-t4/' services/support-chat.yaml
show "aibrix-compile check   # after: pools[0].accelerator: nvidia-t4"
aibrix-compile check || test $? -eq 1
