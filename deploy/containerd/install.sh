#!/bin/sh
# Brings the snapshotter onto a machine as a systemd unit, or up to date, or takes it away. HOST: the machine's root directory
# ("/host" in the DaemonSet). The unit is restarted only if something changed; containers run on meanwhile.
#   install   (default) and stays, for the pod
#   check     whether that is done and it serves: the pod's readiness
#   remove    the unit, the program and its environment, once containerd has none of its images any more, and stays
set -eu
host=${HOST:-/host}
here=$(dirname "$0")
target=$host/opt/pilotlight
environment=$host/etc/pilotlight/snapshotter.env
unit=pilotlight-snapshotter.service
unit_file=$host/etc/systemd/system/$unit
removed=/tmp/removed
# There while the unit does not run what was put here last: also when this script was ended in between.
due=$target/restart-due

fail() {
  echo "$1" >&2
  exit 1
}

on_host() { nsenter --target 1 --mount --uts --ipc --net -- "$@"; }

# $1 to $2, replaced whole: the old program may be running.
put() {
  if cmp -s "$1" "$2"; then return; fi
  : >"$due"
  cp "$1" "$2.new"
  mv "$2.new" "$2"
}

# What the unit is to know, as systemd reads it: quoted, for values may hold quotes, backslashes and several lines.
write_environment() {
  "$here/node" -e '
    const names = Object.keys(process.env).filter((name) => /^(PILOTLIGHT|AWS|GOOGLE|AZURE)_/.test(name));
    const quoted = (value) => `"${value.replace(/["\\$`]/g, "\\$&")}"`;
    for (const name of names.sort()) console.log(`${name}=${quoted(process.env[name])}`);
  '
}

serves() {
  on_host systemctl is-active --quiet $unit && [ -S "$host/run/pilotlight/snapshotter.sock" ]
}

install() {
  mkdir -p "$target/dist" "${environment%/*}"
  for file in node pilotlight-imagefs package.json dist/main.js; do put "$here/$file" "$target/$file"; done
  put "$here/$unit" "$unit_file"
  umask 077
  write_environment >/tmp/snapshotter.env
  put /tmp/snapshotter.env "$environment"
  on_host systemctl daemon-reload
  on_host systemctl enable $unit
  if [ -e "$due" ]; then
    on_host systemctl restart $unit
    rm "$due"
    echo "installed"
  else
    on_host systemctl start $unit
    echo "nothing to change"
  fi
}

remove() {
  if [ -e "$unit_file" ]; then
    on_host systemctl stop $unit
    if ! on_host /opt/pilotlight/node /opt/pilotlight/dist/main.js image snapshotter --end; then
      on_host systemctl start $unit
      fail "nothing was removed: the snapshotter is still needed"
    fi
    on_host systemctl disable $unit
  fi
  rm -f "$unit_file" "$environment"
  rm -rf "$target"
  on_host systemctl daemon-reload
  : >"$removed"
  echo "removed; /var/lib/pilotlight/containerd stays until it is deleted"
}

[ -d "$host/run/systemd/system" ] || fail "$host is not the root directory of a machine that runs systemd"
case ${1:-install} in
  install) install ;;
  remove) remove ;;
  check)
    [ -e "$removed" ] || serves || fail "the snapshotter does not serve: journalctl -u $unit on the node says why"
    exit 0
    ;;
  *) fail "what is '$1'? install, check or remove" ;;
esac
exec sleep infinity
