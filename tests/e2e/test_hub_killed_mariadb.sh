#!/usr/bin/env bash
# test_hub_killed.sh with the catalog in MariaDB.
E2E_DB=mariadb
. "$(dirname "$0")/test_hub_killed.sh"
