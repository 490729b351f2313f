# SPDX-License-Identifier: MIT
# Shared by scripts/demo, scripts/test and scripts/bench; sourced, never run.
#
# tm_packages installs only what dpkg does not already have, so that a second
# run needs no network and no root.

TM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

TM_BUILD_PACKAGES=(gcc libc6-dev cmake ninja-build pkg-config
                   libelf-dev libdw-dev libglib2.0-dev zlib1g-dev)

tm_die()
{
    echo "${0##*/}: $*" >&2
    exit 1
}

# The release of Debian as a number; nothing where this is not Debian. Testing
# and unstable carry no number and count as newer than any release.
tm_debian_release()
{
    [ -r /etc/os-release ] || return 0
    (
        ID='' VERSION_ID=''
        . /etc/os-release
        [ "$ID" = debian ] && echo "${VERSION_ID:-999}"
    ) || true
}

tm_package_is_installed()
{
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# tm_as_root COMMAND...: directly as root, else through sudo.
tm_as_root()
{
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        tm_die "needs root for: $* (there is no sudo; run it as root, then run this again)"
    fi
}

# Whether what the build needs is there, on a system whose packages have other names.
tm_have_build_tools()
{
    command -v cc >/dev/null && command -v cmake >/dev/null && command -v ninja >/dev/null &&
        command -v pkg-config >/dev/null && pkg-config --exists libelf libdw glib-2.0 zlib
}

# tm_packages PACKAGE...: makes sure that the Debian packages are installed.
tm_packages()
{
    local release missing=() package
    release=$(tm_debian_release)
    if [ -z "$release" ] || [ "${release%%.*}" -lt 12 ]; then
        tm_have_build_tools && return 0
        tm_die "this is not Debian 12 or newer; install what these Debian packages hold," \
               "then run this again: $*"
    fi
    for package in "$@"; do
        tm_package_is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "Installing: ${missing[*]}"
    tm_as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 update
    tm_as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -q -y -o Acquire::Retries=3 --no-install-recommends install "${missing[@]}"
}

# tm_unpack FOLDER PACKAGE...: the files of Debian packages below FOLDER, nothing installed. False
# where they cannot be had: what needs them then says so.
tm_unpack()
{
    local folder=$1 work
    shift
    [ -n "$(tm_debian_release)" ] || return 1
    [ ! -d "$folder" ] || return 0
    work=$(mktemp -d)
    if (cd "$work" && apt-get -q -o Acquire::Retries=3 download "$@" >/dev/null 2>&1) &&
        mkdir -p "$folder.new" && for package in "$work"/*.deb; do
            dpkg -x "$package" "$folder.new" || break
        done && mv "$folder.new" "$folder"; then
        rm -rf "$work"
        return 0
    fi
    rm -rf "$work" "$folder.new"
    return 1
}

# tm_build PRESET: configures and builds in $TM_ROOT/build.
tm_build()
{
    # A build folder that came from another place (a copied or moved tree) cannot be used again.
    local cache=$TM_ROOT/build/CMakeCache.txt
    if [ -f "$cache" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$TM_ROOT" "$cache"; then
        rm -rf "$TM_ROOT/build"
    fi
    (cd "$TM_ROOT" && cmake --preset "$1" && cmake --build --preset "$1" --parallel "$(nproc)")
}
