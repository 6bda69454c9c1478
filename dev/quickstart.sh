# What quickstart and quickstart-stop have to agree on.  Sourced after lib.sh.
# shellcheck shell=bash

# A folder without this file was not made by quickstart, and is not removed.
MARKER=.made_by_pool_worker_quickstart

# Sets dir.  A socket's path may have about 100 characters, so /tmp and not the
# checkout.
choose_folder()
{
    dir=${QUICKSTART_DIR:-/tmp/pool_worker_quickstart_$user}
    case $dir in
        /*) ;;
        *) dir=$PWD/$dir ;;
    esac
    [ ${#dir} -le 75 ] || die "the path is too long for a Unix socket in it: $dir" \
        "Choose another: QUICKSTART_DIR=folder"
}

# Refuses a folder that is not ours: another user's, a link, or just not made
# by quickstart.
must_be_ours()
{
    if [ -L "$dir" ] || [ ! -d "$dir" ] || [ "$(stat -c %U "$dir")" != "$user" ]; then
        die "$dir is not a folder of user $user; leaving it alone" \
            "Choose another: QUICKSTART_DIR=folder"
    fi
    as_user "$user" test -f "$dir/$MARKER" ||
        die "$dir was not made by quickstart; leaving it alone" \
            "Choose another: QUICKSTART_DIR=folder"
}

remove_all()
{
    as_user "$user" rm -rf -- "$dir"
}
