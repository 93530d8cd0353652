# Sourced by the launchers in scripts/, after they set `here`. Everything but this is TypeScript and runs on the Node this
# repository pins; this puts that Node in place on a fresh checkout.
root=$(dirname "$here")
case $(uname -m) in x86_64) arch=x64 ;; aarch64) arch=arm64 ;; *) echo "virtnet: no pinned Node for $(uname -m)" >&2; exit 1 ;; esac
if [ ! -x "$root/node_modules/node-linux-$arch/bin/node" ]; then
  if ! command -v npm >/dev/null; then
    echo "virtnet: npm is missing; install Node >= 20 with npm first (https://nodejs.org)" >&2
    exit 1
  fi
  # The one library the pinned Node needs that a minimal system may lack; npm runs scripts of packages with that Node.
  if ! ls /usr/lib/*/libatomic.so.1 /lib/*/libatomic.so.1 /usr/lib64/libatomic.so.1 2>/dev/null | grep -q .; then
    line="apt-get install -y --no-install-recommends libatomic1"
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
      echo "virtnet: libatomic.so.1 is missing; as root, run (name as in Debian):" >&2
      echo "  $line" >&2
      exit 1
    fi
    echo "virtnet: installing libatomic1" >&2
    said=$($line 2>&1 || { apt-get update && $line; } 2>&1) || { echo "$said" >&2; exit 1; }
  fi
  echo "virtnet: installing npm packages" >&2
  mkdir -p "$root/.cache" || exit 1
  (
    exec 9>"$root/.cache/setup.lock"
    flock 9
    [ -x "$root/node_modules/node-linux-$arch/bin/node" ] || (cd "$root" && npm ci --no-audit --no-fund --loglevel=error >&2)
  ) || { echo "virtnet: npm ci failed" >&2; exit 1; }
fi
