//! A daemon within a user namespace, as root there but not on the machine: within another container, or under a user's tool.

use testkit::Cell;
use testkit::bundle::{busybox_tree, has_busybox_or_skip};

use crate::subject::{program, programs, skip_unless_insula};

/// Goes to a user namespace with a million ids, whose first is root, and to others that it owns; then does what `$1` says.
const ENTER: &str = r#"
mkfifo go
unshare --user sh -c 'read line < go; exec unshare --mount --net --pid --fork --ipc --uts --cgroup --mount-proc sh -ec "$0"' "$1" &
inside=$!
until echo 0 0 1000000 > /proc/$inside/uid_map; do sleep 0.02; done 2>/dev/null
echo 0 0 1000000 > /proc/$inside/gid_map
echo > go
wait $inside
"#;

const WORK: &str = r#"
ip link set lo up
insulad --root $HOME/state --run /run/insula --cgroup-parent /nested > log 2>&1 &
daemon=$!
trap 'cat log >&2; kill $daemon' EXIT
export INSULA_HOST=unix:///run/insula/docker.sock
until [ -S /run/insula/docker.sock ]; do kill -0 $daemon; sleep 0.05; done
tar -C tree -c . | insula import - nested:1 > /dev/null
insula run --rm -m 64m nested:1 sh -c 'id -u; cat /proc/self/uid_map; wget -q -O - http://127.0.0.1/ 2>&1 | grep -c refused'
mkdir context
printf 'FROM nested:1\nRUN id -u > /who\nCMD cat /who\n' > context/Dockerfile
insula build --progress plain -t built:1 context > /dev/null 2> built || { cat built >&2; exit 1; }
insula run -d --name lasts built:1 sleep 1000 > /dev/null
insula exec lasts cat /who
insula rm -f lasts
trap - EXIT
kill $daemon
wait $daemon
"#;

#[test]
fn a_daemon_in_a_user_namespace_runs_containers() {
    if skip_unless_insula() || !has_busybox_or_skip() {
        return;
    }
    let Some(cell) = Cell::open(&["mkfifo", "tar"]) else { return };
    busybox_tree(&cell.island().dir("tree"));
    program("insulad");
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = cell.command(&["sh", "-ec", ENTER, "enter", WORK]);
    let run = testkit::finish(command.env("PATH", path), b"").expect(0);
    let lines: Vec<Vec<&str>> = run.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [vec!["0"], vec!["0", "0", "1000000"], vec!["1"], vec!["0"], vec!["lasts"]], "{}", run.err);
    cell.assert_empty();
}
