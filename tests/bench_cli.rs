//! `raft_bench` from outside, against real nodes: its loops, its results in all forms,
//! and that it goes on when nodes do not. Runs are short: what is tested is what is
//! reported, not how fast anything is.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use support::cluster::{SOON, TestCluster};
use support::eventually;

fn command(cluster: &TestCluster, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft_bench"));
    for addr in cluster.clients() {
        command.args(["--addr", &addr.to_string()]);
    }
    command
        .args(["--connections", "4", "--warm-up", "0.2", "--keys", "1000"])
        .args(args)
        .current_dir(cluster.directory())
        .stdin(Stdio::null());
    command
}

fn bench(cluster: &TestCluster, args: &[&str]) -> String {
    finished(&command(cluster, args).output().unwrap())
}

fn started(cluster: &TestCluster, args: &[&str]) -> Child {
    command(cluster, args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a run that went well has printed.
fn finished(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    // Progress is for terminals.
    assert_eq!(errors, "");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn count(result: &Value, name: &str) -> u64 {
    result[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name}: {result}"))
}

/// The operations that were answered in each interval.
fn operations_over_time(result: &Value) -> Vec<u64> {
    let series = result["series"]["operations"].as_array().unwrap();
    series.iter().map(|n| n.as_u64().unwrap()).collect()
}

fn read(cluster: &TestCluster, file: &str) -> String {
    fs::read_to_string(cluster.directory().join(file)).unwrap()
}

#[test]
fn a_closed_loop_reports_all_it_has_measured() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let pid = cluster.pid(0).as_raw_nonzero().to_string();
    let args = [
        "--seconds",
        "0.6",
        "--interval",
        "0.2",
        "--server-pid",
        &pid,
        "--json",
    ];
    let result = json(&bench(&cluster, &args));
    assert_eq!(result["op"], "update");
    assert_eq!(result["loop"], "closed");
    assert_eq!(result["errors"], 0);
    let operations = count(&result, "operations");
    assert!(operations > 0);
    let over_time = operations_over_time(&result);
    assert_eq!(over_time.len(), 3);
    assert_eq!(over_time.iter().sum::<u64>(), operations);
    let number = |name: &str| result[name].as_f64().unwrap();
    assert!(number("p50_us") > 0.0 && number("p50_us") <= number("p99_us"));
    assert!(number("p999_us") <= number("max_us"));
    assert!(number("generator_cpu_us") > 0.0);
    assert!(count(&result, "leader_syncs") > 0);

    // The same for people.
    let table = bench(&cluster, &["--op", "get", "--seconds", "0.3"]);
    let mut lines = table.lines();
    assert_eq!(lines.next(), Some("get, closed loop"));
    for name in ["throughput", "latency µs", "errors", "CPU µs each"] {
        assert!(table.contains(name), "{name} is missing:\n{table}");
    }
    cluster.assert_alive();
}

#[test]
fn an_open_loop_keeps_its_rate_and_draws_itself() {
    let cluster = TestCluster::with_leader(1, &[]);
    let args = [
        "--rate",
        "200",
        "--seconds",
        "1",
        "--interval",
        "0.25",
        "--mix",
        "update=3,get=1",
        "--distribution",
        "zipf",
        "--json",
        "run.json",
        "--svg",
        "run.svg",
        "--hdr",
        "run.hgrm",
    ];
    let table = bench(&cluster, &args);
    assert!(
        table.starts_with("update=3,get=1, open loop, 200/s"),
        "{table}"
    );
    let result = json(&read(&cluster, "run.json"));
    assert_eq!(result["loop"], "open");
    assert_eq!(result["rate"], 200.0);
    assert_eq!(result["distribution"], "zipf");
    // What was due is answered, or said not to be; some of the warm-up comes in late.
    let accounted = count(&result, "operations") + count(&result, "unanswered");
    assert!(accounted.abs_diff(200) <= 60, "{result}");
    let svg = read(&cluster, "run.svg");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains(">offered<") && svg.contains(">99 %<"));
    let hdr = read(&cluster, "run.hgrm");
    assert!(hdr.trim_start().starts_with("Value"), "{hdr}");
    assert!(hdr.contains("#[Mean"), "{hdr}");
}

#[test]
fn a_sweep_has_a_result_for_each_rate_and_one_picture() {
    let cluster = TestCluster::with_leader(1, &[]);
    let args = [
        "--rates",
        "50,100,200",
        "--arrivals",
        "poisson",
        "--seconds",
        "0.5",
        "--svg",
        "sweep.svg",
    ];
    let lines = bench(&cluster, &[&args[..], &["--json"]].concat());
    let rates: Vec<f64> = lines
        .lines()
        .map(|line| json(line)["rate"].as_f64().unwrap())
        .collect();
    assert_eq!(rates, [50.0, 100.0, 200.0]);
    assert!(read(&cluster, "sweep.svg").contains("offered operations per second"));
    let table = bench(&cluster, &args);
    // What, on what, the head, and the runs.
    assert_eq!(table.lines().count(), 6, "{table}");
}

#[test]
fn unique_keys_sessions_threads_and_mixed_sizes_work_together() {
    let cluster = TestCluster::with_leader(1, &[]);
    let args = [
        "--mix",
        "put=4,get=2,remove=1",
        "--distribution",
        "unique",
        "--value-bytes",
        "0-300",
        "--pipeline",
        "8",
        "--threads",
        "2",
        "--seconds",
        "0.5",
        "--json",
    ];
    for sessions in [&[][..], &["--sessions"]] {
        let result = json(&bench(&cluster, &[&args[..], sessions].concat()));
        // A key that came twice would be an error.
        assert_eq!(result["errors"], 0, "{result}");
        assert!(count(&result, "operations") > count(&result, "not_found"));
    }
    let status = cluster.status(0).unwrap();
    assert!(status.sessions >= 4, "four connections, a session each");
}

#[test]
fn a_stall_shows_in_the_latency_of_all_that_it_has_delayed() {
    let mut cluster = TestCluster::with_leader(1, &[]);
    let run = started(&cluster, &["--rate", "400", "--seconds", "2", "--json"]);
    eventually("the load has begun", SOON, || {
        cluster
            .status(0)
            .filter(|status| status.applied_index > 200)
    });
    cluster.pause(0);
    // The stall itself.
    thread::sleep(Duration::from_millis(600));
    cluster.resume(0);
    let result = json(&finished(&run.wait_with_output().unwrap()));
    // A quarter was due while nothing was answered. Counted from when they were sent, all but
    // the four in flight would look fast.
    let p90_ms = result["p90_us"].as_f64().unwrap() / 1e3;
    assert!(p90_ms > 100.0, "{result}");
    assert_eq!(result["errors"], 0, "{result}");
}

#[test]
fn a_run_goes_on_when_the_leader_is_killed() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.leader().unwrap();
    let args = ["--rate", "300", "--seconds", "6", "--json"];
    let run = started(&cluster, &args);
    eventually("the load has begun", SOON, || {
        cluster.status(leader).filter(|s| s.applied_index > 100)
    });
    cluster.kill(leader);
    let result = json(&finished(&run.wait_with_output().unwrap()));
    // Of what kind they are depends on what was in flight in that moment.
    assert!(count(&result, "errors") > 0, "{result}");
    assert!(count(&result, "connects_failed") > 0, "{result}");
    assert_eq!(result["leader_syncs"], Value::Null, "of which leader?");
    assert!(operations_over_time(&result).last() > Some(&0), "{result}");
}

#[test]
fn a_run_goes_on_when_the_leader_hangs() {
    let mut cluster = TestCluster::with_leader(3, &[]);
    let leader = cluster.leader().unwrap();
    let args = ["--timeout", "0.5", "--seconds", "6", "--json"];
    let run = started(&cluster, &args);
    eventually("the load has begun", SOON, || {
        cluster.status(leader).filter(|s| s.applied_index > 100)
    });
    cluster.pause(leader);
    let result = json(&finished(&run.wait_with_output().unwrap()));
    assert!(
        result["errors_by_kind"]["timed_out"].as_u64() > Some(0),
        "{result}"
    );
    assert!(operations_over_time(&result).last() > Some(&0), "{result}");
}

fn fails(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_raft_bench"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"", "{args:?}");
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), errors)
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let named = ["--addr", "127.0.0.1:1"];
    let threads = [&named[..], &["--threads", "2", "--connections", "1"]].concat();
    let pid = [&named[..], &["--server-pid", "4294967295"]].concat();
    for (args, says) in [
        // The default cluster may hold what somebody needs.
        (&[][..], "no cluster is named"),
        (&["--mix", "scan=1"], "`scan` is not an operation"),
        (&["--rate", "0"], "not a number of operations"),
        (&threads, "--threads 2"),
        (&["--addr", "nowhere"], "bad address `nowhere`"),
        (&["--cluster", "/nowhere"], "/nowhere"),
        (&pid, "no process 4294967295"),
        (&["--no-such-option"], "--no-such-option"),
    ] {
        let (code, errors) = fails(args);
        assert_eq!(code, Some(2), "{args:?}: {errors}");
        assert!(errors.contains(says), "{args:?}: {errors}");
    }
}

#[test]
fn a_cluster_that_is_not_there_ends_it_with_3_and_a_file_that_cannot_be_with_1() {
    let ports = support::ports::Ports::reserve(1);
    let addr = ports.addresses()[0].to_string();
    let args = ["--addr", &addr, "--timeout", "0.2"];
    let (code, errors) = fails(&args);
    assert_eq!(code, Some(3), "{errors}");
    assert!(
        errors.contains(&addr) && errors.contains("refused"),
        "{errors}"
    );

    let missing = Path::new("/no/such/directory/run.svg");
    let (code, errors) = fails(&[&args[..], &["--svg", missing.to_str().unwrap()]].concat());
    assert_eq!(code, Some(1), "{errors}");
    assert!(errors.contains("cannot write /no/such"), "{errors}");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let output = Command::new(env!("CARGO_BIN_EXE_raft_bench"))
        .arg("--help")
        .output()
        .unwrap();
    let help = finished(&output);
    for text in ["Examples:", "Exit codes:", "--rates", "--distribution"] {
        assert!(help.contains(text), "{text} is missing:\n{help}");
    }
}
