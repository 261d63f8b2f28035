# shellcheck shell=bash disable=SC2034 # used by the scripts
# A Galera cluster of three nodes on loopback, each with a folder of its own. Sourced after lib.sh.
[ -e /usr/lib/galera/libgalera_smm.so ] || skip "the package galera-4 is not installed"

declare -A NODE_PID=() NODE_PORT=() GROUP_PORT=() IST_PORT=()

galera_node() { # number, further options of mariadbd...
	local n=$1 all="${GROUP_PORT[1]},127.0.0.1:${GROUP_PORT[2]},127.0.0.1:${GROUP_PORT[3]}" provider

	shift
	provider="gmcast.listen_addr=tcp://127.0.0.1:${GROUP_PORT[$n]};ist.recv_addr=127.0.0.1:${IST_PORT[$n]}"
	provider+=";gcache.size=16M"
	mkdir -p "$T/node$n" "$T/share"
	PATH=$PWD/tests/support:$PATH GALERA_SHARE=$T/share MARIADB_TEMPLATE=$BUILD/tests/mariadb-data \
		spawn "node$n" "$PWD/tools/private-mariadb.sh" "$T/node$n" --innodb-flush-method=nosync \
		--debug-no-sync --skip-networking=0 --bind-address=127.0.0.1 --port="${NODE_PORT[$n]}" \
		--binlog-format=ROW --innodb-autoinc-lock-mode=2 --wsrep-on=ON \
		--wsrep-provider=/usr/lib/galera/libgalera_smm.so --wsrep-provider-options="$provider" \
		--wsrep-cluster-name=test --wsrep-cluster-address="gcomm://127.0.0.1:$all" \
		--wsrep-node-name="node$n" --wsrep-node-address="127.0.0.1:${GROUP_PORT[$n]}" \
		--wsrep-sst-method=share --wsrep-sst-receive-address="127.0.0.1:${NODE_PORT[$n]}" "$@"
	NODE_PID[$n]=$SPAWNED
}

node_sql() { # number, SQL
	mariadb --no-defaults -S "$T/node$1/sock" -u root -N -e "$2"
}

node_status() { # number, name of a status variable
	node_sql "$1" "SHOW STATUS LIKE '$2'" | cut -f2
}

node_is_ready() { # number
	[ "$(node_status "$1" wsrep_ready)" = ON ]
}

# Three nodes, ready, with a database for the hub. DB_URL names all of them, the first one first.
run_galera() {
	local n

	for n in 1 2 3; do
		free_port && NODE_PORT[$n]=$PORT
		free_port && GROUP_PORT[$n]=$PORT
		free_port && IST_PORT[$n]=$PORT
	done
	echo "open sesame $RANDOM" >"$T/db-password"
	chmod 600 "$T/db-password"
	# One alone, so that there is a state which the others can start from.
	galera_node 1 --wsrep-new-cluster
	wait_until 60 "the first node is ready" node_is_ready 1
	node_sql 1 "CREATE DATABASE hub; CREATE USER hub@127.0.0.1 IDENTIFIED BY '$(cat "$T/db-password")';
		GRANT ALL ON hub.* TO hub@127.0.0.1"
	end TERM "${NODE_PID[1]}"
	for n in 2 3; do
		mkdir -p "$T/node$n"
		cp -r "$T/node1/data" "$T/node$n/data"
		rm -f "$T/node$n/data/galera.cache"
	done
	galera_node 1 --wsrep-new-cluster
	wait_until 60 "the first node is ready" node_is_ready 1
	galera_node 2
	galera_node 3
	wait_until 60 "the second node is ready" node_is_ready 2
	wait_until 60 "the third node is ready" node_is_ready 3
	DB_URL=$(galera_url 1 2 3)
}

galera_url() { # numbers...
	local n hosts=''

	for n in "$@"; do hosts+=${hosts:+,}127.0.0.1:${NODE_PORT[$n]}; done
	echo "mariadb://hub@$hosts/hub?password-file=$T/db-password"
}
