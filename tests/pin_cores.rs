//! `--pin-cores`: each event loop and the raft thread of a real process keep to one of the cores
//! that the process may use, in turn; without the option nobody does.

mod support;

use std::collections::BTreeMap;
use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity};
use support::cluster::{SOON, TestCluster};
use support::eventually;

const REACTORS: usize = 3;

/// The cores that each thread may use, as the kernel writes them, by the thread's name.
fn allowed_of_threads(cluster: &TestCluster) -> BTreeMap<String, String> {
    let tasks = format!("/proc/{}/task", cluster.pid(0).as_raw_nonzero());
    let tasks = fs::read_dir(tasks).expect("the process is there");
    let statuses = tasks.filter_map(|task| {
        // A thread may end while we look.
        fs::read_to_string(task.expect("an entry").path().join("status")).ok()
    });
    let value = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.expect("a line of this name").trim().to_owned()
    };
    statuses
        .map(|status| {
            (
                value(&status, "Name:"),
                value(&status, "Cpus_allowed_list:"),
            )
        })
        .collect()
}

fn own_cores() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("our own affinity");
    (0..CpuSet::MAX_CPU)
        .filter(|core| set.is_set(*core))
        .collect()
}

#[test]
fn pinned_threads_keep_to_one_core_each_and_the_others_to_none() {
    let reactors = REACTORS.to_string();
    let cluster = TestCluster::with_leader(1, &["--reactors", &reactors, "--pin-cores"]);
    let cores = own_cores();
    let mut expected = BTreeMap::new();
    for number in 0..REACTORS {
        expected.insert(format!("reactor-{number}"), cores[number % cores.len()]);
    }
    expected.insert("raft".to_owned(), cores[REACTORS % cores.len()]);
    for (name, core) in expected {
        eventually(&format!("{name} is on core {core}"), SOON, || {
            let allowed = allowed_of_threads(&cluster);
            (allowed.get(&name)? == &core.to_string()).then_some(())
        });
    }
    let main = &allowed_of_threads(&cluster)["raft_example"];
    assert_eq!(main, &allowed_here(), "the first thread is free");
}

#[test]
fn without_the_option_every_thread_may_use_all_cores() {
    let cluster = TestCluster::with_leader(1, &[]);
    let threads = allowed_of_threads(&cluster);
    assert!(threads.contains_key("raft") && threads.contains_key("reactor-0"));
    for (name, allowed) in threads {
        assert_eq!(allowed, allowed_here(), "{name}");
    }
}

/// The same of this process, which the node has inherited.
fn allowed_here() -> String {
    let status = fs::read_to_string("/proc/self/status").expect("our own status");
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"));
    line.expect("a line of this name").trim().to_owned()
}
