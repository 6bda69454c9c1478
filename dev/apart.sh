# Running tests apart from the checkout: a scratch folder with a copy of the
# sources, everything in it done by an unprivileged user, nothing left behind.
# Sourced after lib.sh by dev/check and dev/check_regress.
# shellcheck shell=bash

#   KEEP=1             keep the folder with the logs; failures always do
#   SCRATCH=folder     where to put that folder, instead of /tmp
#   CHECK_TIMEOUT=n    give up after so many seconds
SCRATCH=${SCRATCH:-/tmp}
tests_pid=
user=
scratch=

# a folder of the caller's own, to be removed together with the scratch folder
also_remove=

# Whoever ends us ends the tests, which run in a process group of their own.
stop_tests()
{
    trap - HUP INT TERM
    [ -z "$tests_pid" ] || kill -TERM "$tests_pid" 2>/dev/null || true
    exit 130
}

# clean_up FAILED: nothing outlives us, whatever happened.
clean_up()
{
    end_all_under "$scratch"
    [ -z "$also_remove" ] || rm -rf -- "$also_remove"
    if [ "$1" -ne 0 ] || [ -n "${KEEP:-}" ]; then
        say "Logs and build are kept in $scratch"
    else
        as_user "$user" rm -rf -- "$scratch"
    fi
}

# The counts of all parts in one line.  A part that ended without a count, or
# nothing at all to count, is a failure.
summary()
{
    awk -v rc="$1" '
        { passed += $2; failed += $3; skipped += $4 }
        END {
            if (failed == 0 && (rc != 0 || passed == 0))
                failed = 1
            printf "%d passed, %d failed", passed, failed
            if (skipped > 0)
                printf ", %d skipped", skipped
            print ""
            exit failed > 0
        }' "$scratch/counts"
}

# begin_apart MEGABYTES: sets user and scratch, with a copy of the sources in
# $scratch/source and an empty $scratch/counts.
begin_apart()
{
    user=$(run_user)
    need_space "$SCRATCH" "$1"
    [ ${#SCRATCH} -le 40 ] ||
        die "the path is too long for Unix sockets in it: $SCRATCH"
    cd /
    scratch=$(as_user "$user" mktemp -d "$SCRATCH/pool_worker_check.XXXXXX")
    trap 'clean_up 1' EXIT
    trap stop_tests HUP INT TERM
    as_user "$user" touch "$scratch/counts"
    copy_sources "$user" "$scratch/source"
}

# run_apart SECONDS SCRIPT [ARGUMENT ...]: runs $scratch/source/SCRIPT with
# these arguments, ends with the line of counts, and exits.
run_apart()
{
    local seconds=${CHECK_TIMEOUT:-$1} script=$2 rc=0 failed=0 line

    shift 2
    # in the background, so that a signal interrupts our wait for it
    BECOME=1 USER_HOME=$scratch as_user "$user" timeout --kill-after=20 "$seconds" \
        "$scratch/source/$script" "$@" </dev/null &
    tests_pid=$!
    wait "$tests_pid" || rc=$?
    tests_pid=
    [ $rc -ne 124 ] || say "The tests took longer than $seconds s and were ended."

    line=$(summary $rc) || failed=1
    trap - EXIT
    clean_up $failed
    say "$line"
    exit $failed
}
