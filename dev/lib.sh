# Shared by the scripts in dev/.  Source it; it only defines functions.
# shellcheck shell=bash

# the checkout (or copy of it) that the calling script is part of
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# where Debian's packages put each major version
DEBIAN_SERVERS=/usr/lib/postgresql

say()
{
    printf '%s\n' "$*"
}

# die MESSAGE [WHAT-TO-DO ...]
die()
{
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}

# Our scripts call make themselves.  A make above us hands down its flags and
# job slots; ours must not inherit them (TESTS= and the like come as ordinary
# environment variables as well).
forget_outer_make()
{
    unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES GNUMAKEFLAGS
}

# The major version of PostgreSQL that Debian's packages are for: the newest
# server that is installed, else the one that the package "postgresql" brings.
# Nothing if there is no such package, or no list of packages yet.
debian_major()
{
    local oldest=15 dir major newest=0

    for dir in "$DEBIAN_SERVERS"/*/bin/postgres; do
        major=${dir#"$DEBIAN_SERVERS/"}
        major=${major%%/*}
        if [[ $major =~ ^[0-9]+$ ]] && [ "$major" -ge $oldest ] && [ "$major" -gt "$newest" ]; then
            newest=$major
        fi
    done
    if [ "$newest" -gt 0 ]; then
        say "$newest"
    else
        { apt-cache depends postgresql 2>/dev/null || true; } |
            sed -n 's/^ *Depends: postgresql-\([0-9]*\)$/\1/p'
    fi
}

# The pg_config to build with.  Debian's /usr/bin/pg_config is that of the
# newest headers, which need not belong to a server.
find_pg_config()
{
    local debian

    if [ -n "${PG_CONFIG:-}" ]; then
        command -v "$PG_CONFIG" || die "PG_CONFIG=$PG_CONFIG cannot be run"
        return
    fi
    debian=$DEBIAN_SERVERS/$(debian_major)/bin/pg_config
    if [ -x "$debian" ]; then
        say "$debian"
    else
        command -v pg_config ||
            die "there is no pg_config here" \
                "Install PostgreSQL 15, 17 or 18 with its server headers, or set PG_CONFIG."
    fi
}

# PostgreSQL refuses to run as root.  Root borrows the user that Debian's
# package brings; everybody else is themselves.
run_user()
{
    if [ "$(id -u)" -ne 0 ]; then
        id -un
    elif id "${RUN_USER:-postgres}" >/dev/null 2>&1; then
        say "${RUN_USER:-postgres}"
    else
        die "PostgreSQL does not run as root, and there is no user \"${RUN_USER:-postgres}\"" \
            "Name an unprivileged user: RUN_USER=name"
    fi
}

# as_user USER COMMAND ...
#
# With an environment of its own, so that a PGHOST, PGPORT or PGSERVICE of the
# caller cannot lead us to somebody else's server.  With BECOME=1 the calling
# shell becomes the command, so that in the background $! is the command's pid.
as_user()
{
    local user=$1 name keep=()

    shift
    for name in TERM CC COPT WERROR PG_CONFIG TESTS ONLY JOBS SUITES MODES PROVE_FLAGS \
        PG_TEST_NOCLEAN PG_TEST_TIMEOUT_DEFAULT POOL_WORKER_TEST_TIMEOUT \
        POOL_WORKER_REQUIRE_DRIVERS SEED STEPS SOAK_SECONDS MINIMISE CLIENTS END_WORKER; do
        [ -z "${!name:-}" ] || keep+=("$name=${!name}")
    done

    set -- env -i PATH="$PATH:/usr/sbin:/sbin" LANG=C.UTF-8 HOME="${USER_HOME:-/nonexistent}" \
        USER="$user" LOGNAME="$user" "${keep[@]}" "$@"
    if [ "$user" = "$(id -un)" ]; then
        ${BECOME:+exec} "$@"
    else
        ${BECOME:+exec} setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups "$@"
    fi
}

# copy_sources USER DIR: a copy that belongs to USER, without anything built.
#
# Built in place, a checkout of root would be closed to USER, and one of USER
# would end up with files of root in it.
copy_sources()
{
    local user=$1 dir=$2

    mkdir "$dir"
    tar -C "$TOP" --create \
        --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
        --exclude=./tmp_check --exclude=./tmp_check_iso --exclude=./output_iso \
        --exclude=./results --exclude=./log --exclude=./bench/out --exclude=./t/unit/build . |
        tar -C "$dir" --extract --no-same-owner
    [ "$(id -u)" -ne 0 ] || chown -R "$user:$(id -g "$user")" "$dir"
}

# free_port START [NOT-THIS ...]: the first port from START on that nobody
# listens on, on any address.
free_port()
{
    perl -MSocket=:all -e '
        sub is_free
        {
            my ($port) = @_;
            for my $family (AF_INET, AF_INET6)
            {
                # no IPv6 on this machine: nobody can listen there
                socket(my $sock, $family, SOCK_STREAM, 0) or next;
                setsockopt($sock, SOL_SOCKET, SO_REUSEADDR, 1);
                setsockopt($sock, IPPROTO_IPV6, IPV6_V6ONLY, 1)
                  if $family == AF_INET6;
                my $addr = $family == AF_INET
                  ? pack_sockaddr_in($port, INADDR_ANY)
                  : pack_sockaddr_in6($port, IN6ADDR_ANY);
                next if bind($sock, $addr) && listen($sock, 1);
                return 0 unless $!{EADDRNOTAVAIL} || $!{EAFNOSUPPORT};
            }
            return 1;
        }
        my ($start, @taken) = @ARGV;
        for my $port ($start .. $start + 200)
        {
            last if $port > 65535;
            next if grep { $_ == $port } @taken;
            if (is_free($port)) { print "$port\n"; exit 0; }
        }
        exit 1;' -- "$@" || die "no free port in the 200 from $1 on"
}

# need_space DIR MEGABYTES
need_space()
{
    local free

    free=$(df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$2" ] || die "$1 has $free MB left, and this needs $2 MB"
}

# Pids of the programs that run from files under a folder.  Everything we
# start is a private copy under a folder of our own, so this finds all of it
# and nothing else.
pids_under()
{
    local link exe

    for link in /proc/[0-9]*/exe; do
        exe=$(readlink "$link" 2>/dev/null) || continue
        case $exe in
            "$1"/*)
                link=${link#/proc/}
                say "${link%/exe}"
                ;;
        esac
    done
}

# Wait up to SECONDS until nothing runs from under DIR.
wait_gone()
{
    local deadline=$((SECONDS + $2))

    while [ -n "$(pids_under "$1")" ]; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# Of these pids, those whose parent is not among them: postmasters, which take
# their children along, and not the children.
without_children()
{
    local pid parent

    for pid in "$@"; do
        parent=$(awk '$1 == "PPid:" { print $2 }' "/proc/$pid/status" 2>/dev/null) || continue
        case " $* " in
            *" $parent "*) ;;
            *) say "$pid" ;;
        esac
    done
}

# End what still runs from under DIR: SIGINT is a postmaster's fast shutdown,
# SIGQUIT its immediate one.
end_all_under()
{
    local signal pids

    for signal in INT QUIT KILL; do
        mapfile -t pids < <(pids_under "$1")
        [ ${#pids[@]} -gt 0 ] || return 0
        [ $signal = KILL ] || mapfile -t pids < <(without_children "${pids[@]}")
        kill -"$signal" "${pids[@]}" 2>/dev/null || true
        if wait_gone "$1" 10; then
            return 0
        fi
    done
}
