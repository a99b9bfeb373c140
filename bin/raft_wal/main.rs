//! `raft_wal`: what is in a node's data directory, without changing anything there.
//!
//! Takes no lock and writes nothing, so it works beside a running node: a directory that
//! looks damaged is looked at again before that is said, since a node at work may have
//! changed it in between. Results go to stdout, errors to stderr. Exit codes: 0 fine,
//! 1 damage found, 2 wrong usage, 3 cannot read.

mod dump;
mod look;

use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use look::{Look, Stats};

const EXIT_DAMAGE: u8 = 1;
const EXIT_UNREADABLE: u8 = 3;
/// How often a directory is looked at before it is called damaged.
const LOOKS: usize = 3;

/// Shows what a node keeps on disk: its log, snapshots, `meta` and `peers`. Changes nothing
#[derive(Parser)]
#[command(
    name = "raft_wal",
    version,
    long_about = None,
    after_help = "DIR is a node's own directory, raftnode_N. Works beside a running node.\n\
                  Exit codes: 0 fine, 1 damage found, 2 wrong usage, 3 cannot read."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show what is in all files of a directory, or in one file: each batch and record of the
    /// log, each key of a snapshot
    Dump {
        /// A directory raftnode_N, or a file in one
        path: PathBuf,
    },
    /// Check all checksums and whether the files fit together, as a start would. A snapshot
    /// is built in memory on the way
    Verify {
        /// A directory raftnode_N
        dir: PathBuf,
    },
    /// Sizes and counts
    Stats {
        /// A directory raftnode_N
        dir: PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Why nothing can be said.
#[derive(Debug)]
enum Failure {
    /// A file or directory cannot be read.
    Unreadable(PathBuf, io::Error),
    /// It is none of a node's.
    NotOurs(PathBuf),
    /// The output cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

fn main() -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = match Cli::parse().command {
        Command::Dump { path } => dump::dump(&path, &mut out),
        Command::Verify { dir } => verify(&dir, &mut out),
        Command::Stats { dir, json } => stats(&dir, json, &mut out),
    };
    let done = done.and_then(|intact| Ok(out.flush().map(|()| intact)?));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_DAMAGE),
        // Whoever reads has seen enough.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("raft_wal: {}", explain(&failure));
            ExitCode::from(EXIT_UNREADABLE)
        }
    }
}

fn explain(failure: &Failure) -> String {
    match failure {
        Failure::Unreadable(path, error) => format!("{}: {error}", path.display()),
        Failure::NotOurs(path) => format!(
            "{}: holds nothing of a node; name a directory raftnode_N, or one of its files",
            path.display()
        ),
        Failure::Output(error) => format!("cannot write the output: {error}"),
    }
}

/// Looks until nothing is wrong, or it stays wrong: a running node may have removed a file
/// or written on in between.
fn look(dir: &Path) -> Result<Look, Failure> {
    let mut looked = Look::at(dir);
    for _ in 1..LOOKS {
        match &looked {
            Ok(look) if look.problems.is_empty() => break,
            Err(Failure::Unreadable(_, error)) if error.kind() != ErrorKind::NotFound => break,
            _ => looked = Look::at(dir),
        }
    }
    looked
}

fn verify(dir: &Path, out: &mut impl Write) -> Result<bool, Failure> {
    let looked = look(dir)?;
    for note in &looked.notes {
        writeln!(out, "{note}")?;
    }
    for problem in &looked.problems {
        writeln!(out, "DAMAGED: {problem}")?;
    }
    let verdict = match looked.problems.len() {
        0 => "intact: a node starts from this directory".to_owned(),
        1 => "1 problem: see docs/OPERATIONS.md".to_owned(),
        more => format!("{more} problems: see docs/OPERATIONS.md"),
    };
    writeln!(out, "{verdict}")?;
    Ok(looked.problems.is_empty())
}

fn stats(dir: &Path, json: bool, out: &mut impl Write) -> Result<bool, Failure> {
    let looked = look(dir)?;
    let stats: &Stats = &looked.stats;
    if json {
        let text = serde_json::to_string_pretty(stats).map_err(io::Error::from)?;
        writeln!(out, "{text}")?;
    } else {
        stats.print(out)?;
    }
    for problem in &looked.problems {
        eprintln!("raft_wal: damaged: {problem}");
    }
    Ok(looked.problems.is_empty())
}
