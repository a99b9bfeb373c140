//! `raft_explore`: every interleaving of a small cluster, within bounds.
//!
//! Findings and totals go to stdout, progress to stderr. Exit codes: 0 nothing found, 1 a
//! finding, 2 wrong usage.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use raftkv::explore::{End, Limits, Outcome, Report, SCENARIOS, Scenario, explore};

/// Between two lines of progress on a terminal, where each takes the place of the last.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Between two lines of progress elsewhere.
const LOGGED_PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Tries every interleaving of messages, disks, crashes and requests of a small cluster, within
/// bounds, and holds the core to its promises in each state.
#[derive(Parser)]
#[command(
    name = "raft_explore",
    version,
    long_about = None,
    after_help = "A finding is printed as a golden script (src/raft/tests/scripts).\n\
                  Exit codes: 0 nothing found, 1 a finding, 2 wrong usage."
)]
struct Cli {
    /// The scenarios to explore; all if none is named
    #[arg(value_name = "SCENARIO", value_parser = scenario)]
    scenarios: Vec<&'static Scenario>,
    /// List the scenarios and exit
    #[arg(long, short)]
    list: bool,
    /// States of each at most; one takes about 16 bytes
    #[arg(long, value_name = "N", default_value = "5000000", value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    states: u32,
    /// Steps from the first state at most
    #[arg(long, value_name = "D", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..))]
    depth: u32,
    /// Seconds for each at most
    #[arg(long, value_name = "S", default_value = "600", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Threads; one for each core if not given
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
}

fn scenario(name: &str) -> Result<&'static Scenario, String> {
    let named = SCENARIOS.iter().find(|scenario| scenario.name == name);
    named.ok_or_else(|| "no such scenario (see --list)".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.list {
        for Scenario { name, about, .. } in SCENARIOS {
            print(&format!("{name:<24}{about}\n"));
        }
        return ExitCode::SUCCESS;
    }
    let scenarios = match cli.scenarios.as_slice() {
        [] => SCENARIOS.iter().collect(),
        named => named.to_vec(),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let limits = Limits {
        states_max: cli.states as usize,
        depth_max: cli.depth,
        time_max: Duration::from_secs(cli.seconds),
        jobs: cli.jobs.map_or(cores, usize::from),
    };
    // What the core asserts is told by its finding.
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = false;
    for scenario in scenarios {
        let mut progress = Progress::new(scenario.name);
        let outcome = explore(scenario, &limits, &mut |report| progress.show(report));
        progress.clear();
        print(&summary(scenario.name, &outcome));
        found |= outcome.finding.is_some();
    }
    if found {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The result of a scenario.
fn summary(name: &str, outcome: &Outcome) -> String {
    let how = match outcome.end {
        End::Complete => "nothing else can happen",
        End::Limit => "more can happen",
        End::Finding => "a finding",
    };
    let mut text = format!("{}; {how}\n", figures(name, &outcome.report));
    if let Some(finding) = &outcome.finding {
        text += &format!("\n{}\n", finding.script);
    }
    text
}

fn figures(name: &str, report: &Report) -> String {
    let Report {
        states,
        steps,
        depth,
        elapsed,
    } = report;
    let seconds = elapsed.as_secs_f64();
    let rate = *states as f64 / seconds.max(1e-9);
    format!(
        "{name}: {states} states to depth {depth}, {steps} steps in {seconds:.1} s: {rate:.0} states/s"
    )
}

/// Prints to stdout; a reader that has gone away had enough.
fn print(text: &str) {
    if io::stdout().write_all(text.as_bytes()).is_err() {
        std::process::exit(1);
    }
}

/// Says on stderr how far it has come.
struct Progress {
    name: &'static str,
    terminal: bool,
    last: Instant,
}

impl Progress {
    fn new(name: &'static str) -> Progress {
        Progress {
            name,
            terminal: io::stderr().is_terminal(),
            last: Instant::now(),
        }
    }

    fn show(&mut self, report: &Report) {
        let every = if self.terminal {
            PROGRESS_EVERY
        } else {
            LOGGED_PROGRESS_EVERY
        };
        if self.last.elapsed() < every {
            return;
        }
        self.last = Instant::now();
        let (begin, end) = if self.terminal {
            ("\r\x1b[K", "")
        } else {
            ("", "\n")
        };
        let line = format!("{begin}{}{end}", figures(self.name, report));
        // Progress that cannot be shown is missed by nobody.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn clear(&self) {
        if self.terminal {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
