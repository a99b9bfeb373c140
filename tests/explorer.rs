//! Every interleaving of small clusters, within bounds; see `src/explore`.
//!
//! `RAFTKV_STATES=N cargo test --test explorer` looks at so many states of each scenario. The
//! program `raft_explore` does the same with more to say.

use std::process::{Command, Output};
use std::time::Duration;

use raftkv::explore::{End, Limits, SCENARIOS, explore};

/// Of each scenario.
const STATES: usize = 20_000;

#[test]
fn no_interleaving_breaks_a_promise_of_the_core() {
    let states_max = match std::env::var("RAFTKV_STATES") {
        Ok(text) => text.parse().expect("RAFTKV_STATES is a number"),
        Err(_) => STATES,
    };
    let limits = Limits {
        states_max,
        depth_max: u32::MAX,
        time_max: Duration::from_secs(3_600),
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
    };
    let mut all = 0;
    for scenario in SCENARIOS {
        let outcome = explore(scenario, &limits, &mut |_| ());
        println!("{}: {:?}, {:?}", scenario.name, outcome.report, outcome.end);
        if let Some(finding) = outcome.finding {
            panic!("{}\n{}", finding.what, finding.script);
        }
        let states = outcome.report.states;
        assert!(
            outcome.end == End::Complete || states >= states_max,
            "{}: ended after {states} states",
            scenario.name
        );
        all += states;
    }
    println!("figure: explorer, states: {all}");
}

fn raft_explore(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raft_explore"));
    command.args(arguments).output().expect("raft_explore runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_program_says_how_far_it_came_and_how_fast() {
    let output = raft_explore(&["elections", "--depth", "6", "--jobs", "1"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    for word in [
        "elections: ",
        " states to depth 6, ",
        " states/s; more can happen",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let again = stdout(&raft_explore(&["elections", "--depth", "6", "--jobs", "2"]));
    let states = |text: &str| text.split(" states").next().map(str::to_owned);
    assert_eq!(states(&again), states(&text), "the same on two threads");
}

#[test]
fn the_program_lists_its_scenarios() {
    let text = stdout(&raft_explore(&["--list"]));
    assert_eq!(text.lines().count(), SCENARIOS.len());
    for (line, scenario) in text.lines().zip(SCENARIOS) {
        assert!(line.starts_with(scenario.name) && line.ends_with(scenario.about));
    }
}

#[test]
fn wrong_usage_of_the_program_is_told_with_exit_code_2() {
    for arguments in [&["--states", "0"][..], &["--jobs", "0"], &["nothing"]] {
        let output = raft_explore(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
}
