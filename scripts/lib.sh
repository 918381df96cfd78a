# Functions that the scripts beside this file share. Sourced, never run:
#   source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What can be made again, and takes long to make, lies outside the checkout, so that a fresh clone is quick.
cache=${BRAMBLE_CACHE:-/var/tmp/bramble-cache}
# shellcheck disable=SC2034 # used by the scripts that source this file
bin=$root/bin

# One set of flags for builds and tests, so that both share Go's cache: upstream's registries take minutes to compile.
# buildvcs: a build must not depend on how the checkout came here (a copy without .git, another owner).
# netgo, osusergo: a static glibc cannot load the host's name services. sqlite_omit_load_extension: nothing may
# load code into the process that holds the Secrets (and dlopen is what a static program lacks).
# gcflags: upstream's own packages and its client without inlining, which takes 3 MiB off bramble; they convert, validate and
# ask, and seldom.
export CGO_ENABLED=1 GOFLAGS='-buildvcs=false -trimpath -tags=netgo,osusergo,sqlite_omit_load_extension -gcflags=k8s.io/kubernetes/pkg/...=-l -gcflags=k8s.io/client-go/...=-l'
# Of SQLite, what nothing here uses is left out: by name, and by the linker (--gc-sections of scripts/build).
export CGO_CFLAGS='-O2 -g0 -DSQLITE_OMIT_JSON -DSQLITE_OMIT_DEPRECATED -ffunction-sections -fdata-sections'

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

require_root() {
  [[ $(id -u) == 0 ]] || die "must be run as root: it makes namespaces, mounts and cgroups (try: sudo $0)"
}

# Without a PATH of root's, sbin (ip, nft) and Go's usual place are missing on some machines.
export PATH="$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin"

require_go() {
  command -v go >/dev/null || die "Go is missing; install it from your distribution or into /usr/local/go (go.mod says which version)"
}

installed() { # installed PACKAGE: is this Debian package there?
  [[ $(dpkg-query -W -f='${Status}' "$1" 2>/dev/null) == "install ok installed" ]]
}

# need_packages PACKAGE...: installs what is missing and nothing else; quick and silent when all are present.
need_packages() {
  local p missing=()
  for p in "$@"; do
    installed "$p" || missing+=("$p")
  done
  [[ ${#missing[@]} -gt 0 ]] || return 0
  command -v apt-get >/dev/null || die "these packages are missing and this is not Debian: ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  package_lists
  # An installation that was ended in the midst (^C, a time limit, a pulled plug) is completed: apt refuses to work before.
  if [[ -n $(dpkg --audit; find /var/lib/dpkg/updates -type f) ]]; then
    DEBIAN_FRONTEND=noninteractive without_services dpkg --configure -a >"$cache/apt.log" 2>&1 || true # apt says what is left
  fi
  # Services of what is installed (nginx, mosquitto) must not start by themselves: only their files are wanted.
  if ! without_services apt_get install -y --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1; then
    tail -n 20 "$cache/apt.log" >&2
    die "apt-get could not install: ${missing[*]} (see $cache/apt.log)"
  fi
}

# The shim and the pause process are small C programs; SQLite and seccomp are C libraries. Without certificates Go can
# fetch no module: a minimal Debian has none.
# shellcheck disable=SC2034 # used by the scripts that source this file
build_packages=(gcc libc6-dev libseccomp-dev pkg-config ca-certificates)

# The lists are fetched once a day at most; a machine that was just made has none.
package_lists() {
  local stamp=$cache/apt-lists
  mkdir -p "$cache"
  if [[ -n $(find "$stamp" -mtime -1 2>/dev/null) ]] && compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null; then
    return 0
  fi
  apt_get update >"$cache/apt.log" 2>&1 || { tail -n 20 "$cache/apt.log" >&2; die "apt-get update failed"; }
  touch "$stamp"
}

# Another apt-get may be at work (unattended upgrades, a second script): wait for it instead of failing.
apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }

# without_services COMMAND...: Debian's own switch (policy-rc.d) against starting services during an installation.
# It is taken back after ^C too, and by the next run after a pulled plug: left behind, it would keep the service of
# everything that is ever installed on this machine from starting.
without_services() ( # a subshell, which the trap is for
  policy=/usr/sbin/policy-rc.d
  ours='# for one installation, by scripts/lib.sh of Bramble'
  if [[ -e $policy ]] && ! grep -qxF "$ours" "$policy"; then
    "$@"
    exit
  fi
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\n%s\nexit 101\n' "$ours" >"$policy"
  chmod 755 "$policy"
  "$@"
)

# free_port: a TCP port that nobody uses now. The kernel chooses it.
free_port() {
  python3 - 2>/dev/null <<'PY' || perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen=>1,LocalAddr=>"127.0.0.1")->sockport, "\n"'
import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])
PY
}

# fingerprint PATH...: one word that changes with the content of the files, for caches.
fingerprint() {
  find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sed "s|  $root/|  |" | sha256sum | cut -c1-16
}

# elapsed: whole seconds since this script started.
elapsed() { printf '%d s' "$SECONDS"; }

# Debian's old kubectl, unpacked beside the system: it must not replace another that is installed.
old_kubectl() {
  local dir=$cache/kubernetes-client
  if [[ ! -x $dir/usr/bin/kubectl ]]; then
    package_lists
    mkdir -p "$dir"
    (cd "$dir" && apt_get -o APT::Sandbox::User=root download kubernetes-client >/dev/null && dpkg-deb -x kubernetes-client_*.deb .)
  fi
  say "$dir/usr/bin/kubectl"
}
