//! Namespaces and the pool of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use net::{NetnsPool, create_netns, netns_inode};

use testkit::is_root_or_skip as may_run;

#[test]
fn a_namespace_is_new_and_its_loopback_is_up() {
    if !may_run() {
        return;
    }
    let before = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    let namespace = create_netns().unwrap();
    assert_ne!(netns_inode(namespace.as_fd()).unwrap(), before);
    assert_eq!(fs::metadata("/proc/thread-self/ns/net").unwrap().ino(), before, "the caller stays where it was");
    let target = format!("--net=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let shown =
        Command::new("nsenter").args([&target, "cat", "/proc/self/net/dev", "/proc/self/net/if_inet6"]).output();
    let text = String::from_utf8_lossy(&shown.unwrap().stdout).into_owned();
    let links = net::parse_link_statistics(&text);
    assert_eq!(links.iter().map(|link| link.name.as_str()).filter(|name| *name == "lo").count(), 1, "{text}");
    let status =
        Command::new("nsenter").args([&target, "sh", "-c", "exec 3<>/dev/null; cat /proc/net/fib_trie"]).output();
    let routes = String::from_utf8_lossy(&status.unwrap().stdout).into_owned();
    assert!(routes.contains("127.0.0.1"), "a loopback link that is up has its address: {routes}");
}

#[test]
fn the_pool_refills_itself_and_never_gives_one_twice() {
    if !may_run() {
        return;
    }
    let pool = NetnsPool::new(3).unwrap();
    assert!(pool.wait_full(Duration::from_secs(20)));
    let taken: Vec<_> = (0..8).map(|_| pool.take().unwrap()).collect();
    let inodes: BTreeSet<u64> = taken.iter().map(|fd| netns_inode(fd.as_fd()).unwrap()).collect();
    assert_eq!(inodes.len(), 8);
    assert!(pool.wait_full(Duration::from_secs(20)));
    assert_eq!(pool.ready(), 3);
}

#[test]
fn an_empty_pool_makes_them_on_demand_and_a_full_one_stops_at_once() {
    if !may_run() {
        return;
    }
    let pool = NetnsPool::new(0).unwrap();
    assert_eq!(pool.ready(), 0);
    assert!(pool.take().is_ok() && pool.wait_full(Duration::ZERO));
    let big = NetnsPool::new(2).unwrap();
    let start = Instant::now();
    drop(big);
    assert!(start.elapsed() < Duration::from_secs(10));
}
