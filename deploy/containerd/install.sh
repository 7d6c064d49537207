#!/bin/sh
# Brings the snapshotter onto a machine as a systemd unit, or up to date. HOST: the machine's root directory ("/host" in the
# DaemonSet). The unit is restarted only if something changed; containers run on meanwhile.
set -eu
host=${HOST:-/host}
here=$(dirname "$0")
target=$host/opt/pilotlight
changed=no

# $1 to $2, replaced whole: the old program may be running.
put() {
  if cmp -s "$1" "$2"; then return; fi
  cp "$1" "$2.new"
  mv "$2.new" "$2"
  changed=yes
}

mkdir -p "$target/dist" "$host/etc/pilotlight"
for file in node pilotlight-imagefs package.json dist/main.js; do put "$here/$file" "$target/$file"; done
put "$here/pilotlight-snapshotter.service" "$host/etc/systemd/system/pilotlight-snapshotter.service"
umask 077
env | grep -E '^(PILOTLIGHT_|AWS_|GOOGLE_|AZURE_)' | sort >/tmp/snapshotter.env
put /tmp/snapshotter.env "$host/etc/pilotlight/snapshotter.env"

on_host() { nsenter --target 1 --mount --uts --ipc --net -- "$@"; }
on_host systemctl daemon-reload
on_host systemctl enable pilotlight-snapshotter.service
if [ "$changed" = yes ]; then on_host systemctl restart pilotlight-snapshotter.service; fi
on_host systemctl is-active pilotlight-snapshotter.service
exec sleep infinity
