#!/bin/sh
# Installs the Debian packages the build, the tests and the demo need, when one is absent.
# Needs root or sudo only then; prints nothing when all is there.
#
#   setup.sh [PACKAGE...]    further ones some target needs
set -eu

build="gcc make libc6-dev liburing-dev libxxhash-dev libzstd-dev zlib1g-dev libjansson-dev
       libmicrohttpd-dev libcurl4-openssl-dev libsqlite3-dev libmariadb-dev libssl-dev libglib2.0-dev pkg-config tzdata
       libnbd-dev libarchive-dev libfuse3-dev libcmocka-dev systemtap-sdt-dev libext2fs-dev libtsk-dev libseccomp-dev"
# MariaDB without its service: the tests and the demo run servers of their own, and clusters of them.
databases="mariadb-server-core mariadb-client-core galera-4"
judges="qemu-utils qemu-system-common libnbd-bin python3-libnbd nbd-client nbdkit fuse3 fio curl ca-certificates jq bc
        openssl gnutls-bin systemd e2fsprogs fdisk util-linux procps python3-jsonschema
        dosfstools mtools ntfs-3g exfatprogs exfat-fuse"
# sshd without its service: tests run one of their own.
tunnel="openssh-server openssh-client socat iproute2"

missing=""
for p in $build $databases $judges $tunnel "$@"; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
	sudo=""
elif command -v sudo >/dev/null 2>&1; then
	sudo="sudo"
else
	echo "setup: these packages are missing and neither root nor sudo is at hand:$missing" >&2
	echo "setup: run as root: apt-get install$missing" >&2
	exit 1
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
hold=""
trap 'rm -f "$log"; [ -z "$hold" ] || $sudo rm -f "$policy"' EXIT
trap 'exit 1' INT TERM HUP
echo "setup: installing$missing"
# Nothing that comes with a package is started: this machine is to build and test, not to serve.
if [ ! -e "$policy" ]; then
	hold=1
	printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
	$sudo chmod 755 "$policy"
fi
# shellcheck disable=SC2086
if ! { $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive \
	apt-get install -y --no-install-recommends $missing; } >"$log" 2>&1; then
	tail -n 20 "$log" >&2
	echo "setup: apt-get failed (see above); install by hand:$missing" >&2
	exit 1
fi
# Nor at the next boot: who wants people to log in here says so (systemctl enable ssh).
case " $missing " in
*" openssh-server "*) $sudo systemctl disable ssh.service ssh.socket >"$log" 2>&1 || true ;;
esac
