#!/bin/sh
# Makes target/venv, the Python of the tests: Debian's python3 where there is one, because the sqlite3 module of
# a self-built Python often cannot load extensions. Installs the Debian packages the tests need only where they
# are missing, and only as root; nothing is written under /etc. Run again, it does nothing.
set -eu
cd "$(dirname "$0")/.."

missing=""
need() { # need PACKAGE TEST...
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
need sqlite3 command -v sqlite3
need libsqlite3-dev test -e /usr/include/sqlite3.h
need gcc command -v gcc
need binutils command -v readelf
need strace command -v strace
need faketime command -v faketime
need g++ command -v g++
need npm command -v npm
need make command -v make
need valgrind command -v valgrind
need xz-utils command -v xz
need tcl8.6-dev test -e /usr/include/tcl8.6/tcl.h
need python3-venv /usr/bin/python3 -c 'import ensurepip, venv'
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "these Debian packages are missing:$missing" >&2
        echo "install them (apt-get install$missing), or run this as root" >&2
        exit 1
    fi
    # shellcheck disable=SC2086
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing) >&2
fi

python=/usr/bin/python3
[ -x "$python" ] || python=$(command -v python3)
"$python" -c 'import sqlite3; sqlite3.Connection.enable_load_extension' 2>/dev/null || {
    echo "the sqlite3 module of $python cannot load extensions; install Debian's python3" >&2
    exit 1
}
stamp=target/venv/requirements.installed
if ! cmp -s python-tests/requirements.txt "$stamp"; then
    mkdir -p target
    [ -x target/venv/bin/python ] || "$python" -m venv target/venv
    target/venv/bin/python -m pip --quiet --disable-pip-version-check install --no-deps -r python-tests/requirements.txt
    cp python-tests/requirements.txt "$stamp"
fi
