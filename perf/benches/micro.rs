//! Times the workloads of `perf/workloads/`: `cargo bench --bench micro`, or with a part
//! of their names, `cargo bench --bench micro -- codec`.
//!
//! One program for all of them: each would have to be linked with the whole library.

mod file_log;
#[path = "../workloads/mod.rs"]
#[allow(
    dead_code,
    reason = "how often an operation is counted is not asked here"
)]
mod workloads;

use std::time::Duration;

use criterion::{Criterion, Throughput};
use rustix::time::{ClockId, clock_gettime};
use workloads::Workload;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(30)
        .without_plots()
        .configure_from_args();
    // What others do on the machine at the same time is not this thread's time.
    for workload in workloads::all() {
        measure(&mut criterion, &workload, ClockId::ThreadCPUTime);
    }
    for workload in file_log::WORKLOADS {
        measure(&mut criterion, &workload, ClockId::Monotonic);
    }
    criterion.final_summary();
}

fn measure(criterion: &mut Criterion, workload: &Workload, clock: ClockId) {
    let (group, name) = workload.name.split_once('/').expect("a group and a name");
    let mut group = criterion.benchmark_group(group);
    let throughput = workload.bytes.map(Throughput::Bytes);
    group.throughput(throughput.unwrap_or(Throughput::Elements(1)));
    // Made when it is measured, and only if it is.
    let mut operation = None;
    group.bench_function(name, |bencher| {
        let operation = operation.get_or_insert_with(workload.prepare);
        bencher.iter_custom(|times| {
            let start = now(clock);
            operation(times);
            now(clock).saturating_sub(start)
        });
    });
    group.finish();
}

fn now(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}
