//! Does the workloads under a profiler that counts instructions: see
//! `perf/instructions.sh`, which runs this and reads the counts.
//!
//! `raft_instructions [NAME]…` does each workload, or those of these names, one after the
//! other, and prints how many operations were counted and its name. Only what happens
//! inside of [`counted`] is counted.

#[path = "../workloads/mod.rs"]
#[allow(dead_code, reason = "groups and bytes are not asked for here")]
mod workloads;

use std::process::ExitCode;

use workloads::{Workload, all};

/// The profiler counts from where this is entered to where it is left, and writes down the
/// count then. A function of its own, so that there is a symbol to tell it.
#[inline(never)]
fn counted(operation: &mut dyn FnMut(u64), times: u64) {
    operation(times);
    // What comes last must not be a call that replaces this function.
    std::hint::black_box(times);
}

fn run(workload: &Workload) {
    let mut operation = (workload.prepare)();
    // Buffers grow, caches of the pool fill: only what goes on for ever is counted.
    operation(workload.count);
    counted(&mut *operation, workload.count);
    println!("{}\t{}", workload.count, workload.name);
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let all = all();
    let is_known = |name: &&String| all.iter().any(|workload| workload.name == **name);
    if let Some(unknown) = wanted.iter().find(|name| !is_known(name)) {
        eprintln!("raft_instructions: no workload {unknown}");
        return ExitCode::from(2);
    }
    all.iter()
        .filter(|workload| wanted.is_empty() || wanted.iter().any(|name| name == workload.name))
        .for_each(run);
    ExitCode::SUCCESS
}
