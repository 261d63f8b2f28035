#!/bin/sh
# A MariaDB server of one's own, for the demo and the tests: no system service, nothing outside DIR,
# no network unless an OPTION asks for it.
#
#   private-mariadb.sh DIR [OPTION...]
#
# Runs mariadbd in the foreground until it is killed. Its data is in DIR/data, made when absent; it
# listens at DIR/sock; user root, no password. OPTIONs are mariadbd's.
#
# MARIADB_TEMPLATE: where to keep a data folder, one a version, and to copy it from: making one takes
# seconds, copying a fraction of one.
set -eu
PATH=$PATH:/usr/sbin:/sbin

dir=$1
shift
user=""
[ "$(id -u)" != 0 ] || user=--user=root
small="--innodb-buffer-pool-size=32M --innodb-log-file-size=4M --skip-name-resolve"

make_data() { # folder
	# shellcheck disable=SC2086
	mariadb-install-db --no-defaults --force $user --datadir="$1" $small --innodb-flush-method=nosync \
		--auth-root-authentication-method=normal --skip-test-db >"$dir/install.log" 2>&1 ||
		{ cat "$dir/install.log" >&2 && exit 1; }
}

# Several may come at once: each makes its own under another name, the first to rename wins.
make_template() {
	mkdir -p "$(dirname "$MARIADB_TEMPLATE")"
	new=$(mktemp -d "$MARIADB_TEMPLATE.XXXXXX")
	make_data "$new/data"
	mv -T "$new/data" "$MARIADB_TEMPLATE" 2>/dev/null || true
	rm -rf "$new"
}

if [ ! -d "$dir/data" ]; then
	if [ -n "${MARIADB_TEMPLATE:-}" ]; then
		MARIADB_TEMPLATE=$MARIADB_TEMPLATE-$(mariadbd --no-defaults --version |
			sed 's/.* Ver \([^ ]*\).*/\1/')
		[ -d "$MARIADB_TEMPLATE" ] || make_template
		cp -r "$MARIADB_TEMPLATE" "$dir/data.new"
	else
		make_data "$dir/data.new"
	fi
	mv "$dir/data.new" "$dir/data"
fi
# shellcheck disable=SC2086
exec mariadbd --no-defaults $user --datadir="$dir/data" --socket="$dir/sock" \
	--pid-file="$dir/pid" --tmpdir="$dir" $small --skip-networking --skip-log-bin \
	--performance-schema=OFF "$@"
