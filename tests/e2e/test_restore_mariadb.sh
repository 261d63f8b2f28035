#!/usr/bin/env bash
# The same with a catalog in MariaDB.
E2E_DB=mariadb
. "$(dirname "$0")/test_restore.sh"
