#!/usr/bin/env bash
# test_copies.sh with the catalog in MariaDB.
E2E_DB=mariadb
. "$(dirname "$0")/test_copies.sh"
