#!/usr/bin/env bash
# test_chain.sh with the catalog in MariaDB.
E2E_DB=mariadb
. "$(dirname "$0")/test_chain.sh"
[ ! -e "$T/hub/catalog.db" ] || fail "the hub made a SQLite catalog"
