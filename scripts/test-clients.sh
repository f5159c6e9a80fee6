#!/bin/bash
# Tests of the REST API with clients that others wrote (tests/clients/README.md); builds nothing.
#   scripts/test-clients.sh                              all
#   scripts/test-clients.sh -k vsvip                     those with this in their name
#   scripts/test-clients.sh test_avisdk.Objects          a class
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
export EVENKEEL_BIN=${EVENKEEL_BIN:-${CARGO_TARGET_DIR:-$PWD/target}/release/evenkeel}
[ -x "$EVENKEEL_BIN" ] || { echo "test-clients: there is no $EVENKEEL_BIN: make build" >&2; exit 1; }
clients=$(scripts/clients.sh)

# The clients believe any certificate unless one of these is set, and would ask a proxy for 127.0.0.1.
unset REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
cd tests/clients
export PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore # of certificates that nobody checks
case ${1:-} in
    "" | -*) exec "$clients/bin/python" -m unittest discover -v "$@" ;;
    *) exec "$clients/bin/python" -m unittest -v "$@" ;;
esac
