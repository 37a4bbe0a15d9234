#!/bin/bash
# preStop of the gateway: new connections go elsewhere, what has begun ends. Arguments: admin port, seconds until load
# balancers have forgotten this pod, seconds that the longest answer may take.
post() {
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
  printf '%s %s HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "$1" "$2" >&3
  cat <&3
  exec 3>&-
}
port=$1 forget=$2 longest=$3
post POST /healthcheck/fail
sleep "$forget"
post POST '/drain_listeners?graceful&skip_exit'
for ((second = 0; second < longest; second++)); do
  active=$(post GET '/stats?filter=http.gateway.downstream_rq_active' | sed -n 's/^http.gateway.downstream_rq_active: //p')
  [ "${active//$'\r'/}" = 0 ] && break
  sleep 1
done
