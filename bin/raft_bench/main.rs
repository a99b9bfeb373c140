//! Load on a cluster, closed or open loop, and what came of it.
//!
//! Built on the project's own client code and event loop, in few threads: it shares the
//! machine with the servers as often as not.
//!
//! | file | concern |
//! |---|---|
//! | `args.rs` | the command line, and the plan that it comes to |
//! | `workload.rs`, `keys.rs` | which operations, on which keys, with which values |
//! | `schedule.rs` | when an open loop is meant to send |
//! | `lane.rs` | one connection: its name, what it has in flight |
//! | `load.rs` | the handler of the event loop: sends, takes answers, follows the leader |
//! | `tally.rs` | what is counted |
//! | `accounts.rs` | what the run costs the processes |
//! | `run.rs` | one run: the threads, and what they have counted put together |
//! | `report.rs`, `plot.rs` | results: text, JSON, percentile table, SVG |

mod accounts;
mod args;
mod keys;
mod lane;
mod load;
mod plot;
mod report;
mod run;
mod schedule;
mod tally;
mod workload;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use crate::accounts::cpu_seconds;
use crate::args::{Cli, JsonTarget, Loads, Plan, Targets};
use crate::run::{Measured, run};

const NOT_WRITTEN: u8 = 1;
const WRONG_USAGE: u8 = 2;
const NOT_REACHED: u8 = 3;

/// Why the program ends early: what to say on stderr, and the exit code.
struct End(String, u8);

impl End {
    fn not_written(path: &Path, error: &io::Error) -> End {
        End(
            format!("cannot write {}: {error}", path.display()),
            NOT_WRITTEN,
        )
    }
}

fn main() -> ExitCode {
    // Wrong options end it here, with code 2.
    let cli = Cli::parse();
    match bench(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(End(reason, code)) => {
            // Whom should a failure to print be told? The exit code remains.
            let _ = writeln!(io::stderr(), "raft_bench: {reason}");
            ExitCode::from(code)
        }
    }
}

fn bench(cli: Cli) -> Result<(), End> {
    let usage = |reason| End(reason, WRONG_USAGE);
    let (plan, loads, targets) = cli.checked().map_err(usage)?;
    for pid in &plan.pids {
        cpu_seconds(*pid).map_err(|e| End(format!("no process {pid}: {e}"), WRONG_USAGE))?;
    }
    // A connection each. Where the system allows fewer, connects fail and are counted.
    let _ = raftkv::net::raise_fd_limit();
    let mut results = Results::open(&plan, &targets)?;
    match loads {
        Loads::Closed => results.single(&measure(&plan, None)?)?,
        Loads::Open(rate) => results.single(&measure(&plan, Some(rate))?)?,
        Loads::Sweep(rates) => results.sweep(&rates)?,
    }
    Ok(())
}

fn measure(plan: &Plan, rate: Option<f64>) -> Result<Measured, End> {
    run(plan, rate).map_err(|reason| End(reason, NOT_REACHED))
}

/// Where results go. The files are made before the run: better a bad path is known then
/// than after an hour.
struct Results<'a> {
    plan: &'a Plan,
    targets: &'a Targets,
    json: Option<File>,
    svg: Option<File>,
    hdr: Option<File>,
}

impl<'a> Results<'a> {
    fn open(plan: &'a Plan, targets: &'a Targets) -> Result<Results<'a>, End> {
        let create = |path: Option<&Path>| {
            path.map(|path| File::create(path).map_err(|e| End::not_written(path, &e)))
                .transpose()
        };
        let json = match &targets.json {
            Some(JsonTarget::File(path)) => create(Some(path))?,
            Some(JsonTarget::Stdout) | None => None,
        };
        Ok(Results {
            plan,
            targets,
            json,
            svg: create(targets.svg.as_deref())?,
            hdr: create(targets.hdr.as_deref())?,
        })
    }

    fn is_for_people(&self) -> bool {
        self.targets.json != Some(JsonTarget::Stdout)
    }

    fn single(&mut self, measured: &Measured) -> Result<(), End> {
        if self.is_for_people() {
            print(&report::text(self.plan, measured))?;
        }
        self.write_json(measured)?;
        if let (Some(file), Some(path)) = (&mut self.hdr, &self.targets.hdr) {
            let mut out = io::BufWriter::new(file);
            let written = report::write_hdr(&mut out, &measured.total).and_then(|()| out.flush());
            written.map_err(|e| End::not_written(path, &e))?;
        }
        self.write_svg(&plot::over_time(self.plan, measured))?;
        answered(measured)
    }

    fn sweep(&mut self, rates: &[f64]) -> Result<(), End> {
        if self.is_for_people() {
            print(&report::sweep_head(self.plan))?;
        }
        let mut steps = Vec::new();
        let mut end = Ok(());
        for rate in rates {
            let measured = match measure(self.plan, Some(*rate)) {
                Ok(measured) => measured,
                Err(reason) => {
                    end = Err(reason);
                    break;
                }
            };
            if self.is_for_people() {
                print(&report::sweep_line(&measured))?;
            }
            self.write_json(&measured)?;
            steps.push(measured);
        }
        // What has been measured is not lost with what has not.
        self.write_svg(&plot::against_load(self.plan, &steps))?;
        end.and_then(|()| steps.iter().try_for_each(answered))
    }

    fn write_json(&mut self, measured: &Measured) -> Result<(), End> {
        let line = |measured| report::json(self.plan, measured);
        match (&self.targets.json, &mut self.json) {
            (Some(JsonTarget::Stdout), _) => print(&line(measured)),
            (Some(JsonTarget::File(path)), Some(file)) => {
                writeln!(file, "{}", line(measured)).map_err(|e| End::not_written(path, &e))
            }
            _ => Ok(()),
        }
    }

    fn write_svg(&mut self, svg: &str) -> Result<(), End> {
        let (Some(file), Some(path)) = (&mut self.svg, &self.targets.svg) else {
            return Ok(());
        };
        file.write_all(svg.as_bytes())
            .map_err(|e| End::not_written(path, &e))
    }
}

/// A cluster that has answered nothing was not measured.
fn answered(measured: &Measured) -> Result<(), End> {
    if measured.total.answered() > 0 {
        return Ok(());
    }
    Err(End(
        "the cluster has answered nothing".to_owned(),
        NOT_REACHED,
    ))
}

/// Prints a line to stdout; a reader that has gone away had enough.
fn print(line: &str) -> Result<(), End> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(End(format!("cannot print the result: {e}"), NOT_WRITTEN))
        }
        _ => Ok(()),
    }
}
