//! `raft_sim`: many seeds of the deterministic simulator on all cores.
//!
//! Findings and totals go to stdout, progress and the words of panics to stderr. Exit
//! codes: 0 nothing found, 1 a finding, 2 wrong usage.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use raftkv::sim::swarm::{Outcome, cores, run_seeds};
use raftkv::sim::{Detail, FAULT_NAMES, Report, run_and_tell};

/// Between two lines of progress on a terminal, where each takes the place of the last.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Between two lines of progress elsewhere.
const LOGGED_PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Runs whole clusters on a simulated clock, network and disk, with faults of all kinds,
/// and holds them to their promises.
#[derive(Parser)]
#[command(
    name = "raft_sim",
    version,
    long_about = None,
    after_help = "A seed shows the same run every time, in one version of the program.\n\
                  Exit codes: 0 nothing found, 1 a finding, 2 wrong usage."
)]
struct Cli {
    /// How many seeds to run
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value = "0")]
    start: u64,
    /// How many to run at a time; one for each core if not given
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Tell what happens, one seed after the other; twice: each message, too
    #[arg(long, short, action = clap::ArgAction::Count)]
    verbose: u8,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.verbose > 0 {
        return tell(&cli);
    }
    let jobs = cli.jobs.map_or_else(cores, usize::from);
    let progress = Progress::new(cli.seeds);
    let outcome = run_seeds(cli.start, cli.seeds, jobs, |outcome| progress.show(outcome));
    progress.clear();
    print(&summary(&outcome));
    if outcome.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Tells what happens in each run. A finding ends the program as a panic.
fn tell(cli: &Cli) -> ExitCode {
    let detail = if cli.verbose > 1 {
        Detail::Messages
    } else {
        Detail::Events
    };
    let mut found = false;
    for seed in cli.start..cli.start.saturating_add(cli.seeds) {
        print(&format!("seed {seed}\n"));
        let hear = |line: &str| print(&format!("{line}\n"));
        let run = || run_and_tell(seed, detail, Box::new(hear));
        match std::panic::catch_unwind(run) {
            Ok(report) => print(&figures(&report)),
            Err(_) => found = true, // The panic has said what.
        }
    }
    if found {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// Prints to stdout; a reader that has gone away had enough.
fn print(text: &str) {
    if io::stdout().write_all(text.as_bytes()).is_err() {
        std::process::exit(1);
    }
}

/// Says on stderr how far it has come.
struct Progress {
    seeds: u64,
    terminal: bool,
    last: Mutex<Instant>,
}

impl Progress {
    fn new(seeds: u64) -> Progress {
        Progress {
            seeds,
            terminal: io::stderr().is_terminal(),
            last: Mutex::new(Instant::now()),
        }
    }

    fn show(&self, outcome: &Outcome) {
        let every = if self.terminal {
            PROGRESS_EVERY
        } else {
            LOGGED_PROGRESS_EVERY
        };
        let mut last = self.last.lock().expect("nobody panics while holding it");
        if last.elapsed() < every {
            return;
        }
        *last = Instant::now();
        let (begin, end) = if self.terminal {
            ("\r\x1b[K", "")
        } else {
            ("", "\n")
        };
        let line = format!(
            "{begin}{} of {} seeds, {:.0}/s, {} findings{end}",
            outcome.seeds,
            self.seeds,
            per_second(outcome.seeds as f64, outcome.elapsed),
            outcome.findings.len()
        );
        // Progress that cannot be shown is missed by nobody.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    fn clear(&self) {
        if self.terminal {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

fn per_second(count: f64, elapsed: Duration) -> f64 {
    count / elapsed.as_secs_f64().max(1e-9)
}

/// What came of all of it: a line for each finding that says how to see it again.
fn summary(outcome: &Outcome) -> String {
    let mut text = String::new();
    for finding in &outcome.findings {
        let what = finding.what.lines().next().unwrap_or_default();
        text += &format!("finding in seed {}: {what}\n", finding.seed);
        text += &format!("  raft_sim --start {} --seeds 1 --verbose\n", finding.seed);
    }
    let Outcome {
        seeds,
        total,
        findings,
        elapsed,
    } = outcome;
    text += &format!(
        "{seeds} seeds in {:.1} s, {} findings: {:.1} seeds/s, {:.0} simulated seconds a second\n",
        elapsed.as_secs_f64(),
        findings.len(),
        per_second(*seeds as f64, *elapsed),
        per_second(total.time.as_secs_f64(), *elapsed),
    );
    text + &figures(total)
}

fn figures(report: &Report) -> String {
    let faults = FAULT_NAMES.iter().zip(report.faults);
    let faults: Vec<String> = faults
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    format!(
        "simulated {:.0} s in {} steps: {} leaders, {} entries, {} operations, {} crashes ({} \
         stopped by themselves), snapshots: {} taken, {} installed\n\
         recovered: a core within {:.1} s, all within {:.1} s\n\
         faults: {}\n",
        report.time.as_secs_f64(),
        report.steps,
        report.leaders,
        report.committed,
        report.operations,
        report.crashes,
        report.stops,
        report.taken,
        report.installed,
        report.core_recovered.as_secs_f64(),
        report.all_agreed.as_secs_f64(),
        faults.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use raftkv::sim::swarm::Finding;

    use super::*;

    #[test]
    fn a_finding_is_told_with_the_line_that_shows_it_again() {
        let outcome = Outcome {
            seeds: 10,
            findings: vec![Finding {
                seed: 7,
                what: "two leaders\nand more".to_owned(),
            }],
            ..Outcome::default()
        };
        let text = summary(&outcome);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("finding in seed 7: two leaders"));
        assert_eq!(
            lines.next(),
            Some("  raft_sim --start 7 --seeds 1 --verbose")
        );
        assert!(
            lines
                .next()
                .is_some_and(|line| line.starts_with("10 seeds in"))
        );
    }
}
