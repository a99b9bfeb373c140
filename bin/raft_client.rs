//! `raft_client`: one operation on the store, or the status of its nodes.
//!
//! Results go to stdout in the words of the original, everything else to stderr.
//! Exit codes: 0 done, 1 refused by the store, 2 wrong usage, 3 cluster not
//! reachable, timed out, or the result could not be printed.

#[path = "raft_client/members.rs"]
mod members;
#[path = "raft_client/status.rs"]
mod status;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use clap::error::ErrorKind;
use raftkv::client::protocol::Operation;
use raftkv::client::{Client, ClientError, ClientOptions, Goal, OperatorError, Outcome, pursue};
use raftkv::config::{Cluster, Config};
use raftkv::limits::VALUE_BYTES_MAX;

const REFUSED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const NOT_REACHED: u8 = 3;
/// Longer is a typing error.
const TIMEOUT_SECS_MAX: f64 = 86_400.0;

/// Reads and writes the replicated key-value store.
#[derive(Parser)]
#[command(
    name = "raft_client",
    version,
    long_about = None,
    override_usage = "raft_client [OPTIONS] put K V | update K V | get [--raw] K | remove K\n\
                      \x20      raft_client [OPTIONS] status [--json] | transfer N | members [--json]\n\
                      \x20      raft_client [OPTIONS] members add [--learner] N PEER CLIENT | promote N | demote N | remove N\n\
                      \x20      raft_client [OPTIONS] members replace OLD N PEER CLIENT",
    after_help = "A value of `-` is read from stdin. Write `--` before a key or value that begins with `--`.\n\
                  Without --addr the nodes of the cluster are asked in turn, 127.0.0.1:4397 first.\n\
                  Exit codes: 0 done, 1 refused by the store, 2 wrong usage, 3 not reachable or timed out."
)]
struct Cli {
    /// A node's client address; may be given more than once
    #[arg(long, value_name = "HOST:PORT")]
    addr: Vec<String>,
    /// The cluster's TOML file, for the addresses in it
    #[arg(long, value_name = "FILE", conflicts_with = "addr")]
    cluster: Option<PathBuf>,
    /// Every command ends within this [default: 5; 300 where a new member has to catch up]
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Do not go where a node says that the leader is
    #[arg(long)]
    no_redirect: bool,
    /// With get: the value's bytes and nothing else
    #[arg(long)]
    raw: bool,
    /// With status and members: JSON, for programs
    #[arg(long)]
    json: bool,
    /// With members add: without a vote
    #[arg(long)]
    learner: bool,
    /// The operation, its key and its value
    #[arg(value_name = "OPERATION", allow_negative_numbers = true)]
    words: Vec<OsString>,
}

/// Why the program ends: what to print where, and with which code.
enum End {
    /// A result of the store, on stdout.
    Result(Vec<u8>, u8),
    /// On stderr.
    Error(String, u8),
}

impl End {
    fn line(text: impl AsRef<[u8]>, code: u8) -> End {
        End::Result([text.as_ref(), b"\n"].concat(), code)
    }

    fn usage(text: impl Into<String>) -> End {
        End::Error(text.into(), WRONG_USAGE)
    }
}

enum Command {
    Operate(Operation),
    Status,
    Members,
    Pursue(Goal),
}

/// How long a command takes at most, if nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let end = Cli::try_parse().map_or_else(|e| not_parsed(&e), |cli| run(&cli));
    let (printed, code) = match end {
        End::Result(bytes, code) => (print(&bytes), code),
        End::Error(text, code) => {
            // Whom should a failure to print be told? The exit code remains.
            let _ = writeln!(io::stderr(), "{text}");
            (Ok(()), code)
        }
    };
    match printed {
        Ok(()) => ExitCode::from(code),
        Err(e) => {
            let _ = writeln!(io::stderr(), "cannot print the result: {e}");
            ExitCode::from(NOT_REACHED)
        }
    }
}

/// Prints to stdout; a reader that has gone away had enough.
fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
    }
}

fn not_parsed(e: &clap::Error) -> End {
    let text = e.render().to_string();
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => End::Result(text.into_bytes(), 0),
        _ => End::usage(text.trim_end()),
    }
}

fn run(cli: &Cli) -> End {
    match run_or_end(cli) {
        Ok(end) | Err(end) => end,
    }
}

fn run_or_end(cli: &Cli) -> Result<End, End> {
    let command = command(cli)?;
    let cluster = match &cli.cluster {
        Some(path) => {
            Config::read(path)
                .map_err(|e| End::usage(e.to_string()))?
                .cluster
        }
        None => Cluster::default(),
    };
    let timeout = cli.timeout.unwrap_or(match &command {
        Command::Pursue(goal) if members::takes_long(goal) => members::CATCH_UP_TIMEOUT,
        _ => TIMEOUT,
    });
    let options = ClientOptions {
        timeout,
        follow_redirects: !cli.no_redirect,
    };
    let client = if cli.addr.is_empty() {
        let addrs = cluster.members().iter().map(|member| member.client);
        Client::at(addrs.collect(), options)
    } else {
        Client::connect(&cli.addr, options)
    };
    let mut client = client.map_err(|e| End::usage(e.to_string()))?;

    match command {
        Command::Status => {
            let known = if cli.addr.is_empty() {
                cluster.members()
            } else {
                &[]
            };
            let rows = status::rows(client.status(), known);
            let text = if cli.json {
                status::json(&rows)
            } else {
                status::table(&rows)
            };
            let reached = rows.iter().any(status::Row::is_reachable);
            Ok(End::line(text, if reached { 0 } else { NOT_REACHED }))
        }
        Command::Members => match members::list(client.status(), cli.json) {
            Some(text) => Ok(End::line(text, 0)),
            None => Err(End::Error("cluster not reachable".into(), NOT_REACHED)),
        },
        Command::Pursue(goal) => {
            let mut progress = members::Progress::new();
            let pursued = pursue(client.addrs(), &goal, timeout, |what| progress.show(what));
            progress.end();
            match pursued {
                Ok(()) => Ok(End::line("success", 0)),
                Err(error @ OperatorError::Refused(_)) => {
                    Ok(End::line(format!("refused: {error}"), REFUSED))
                }
                Err(error) => Err(End::Error(error.to_string(), NOT_REACHED)),
            }
        }
        Command::Operate(operation) => {
            let mut told = None;
            client.on_redirect(move |leader| {
                // While nobody leads, nodes go on naming the last leader: once is enough.
                if told.replace(leader) != Some(leader) {
                    // If it cannot be printed, neither can the result be, and that says so.
                    let _ = print(redirected(leader).as_bytes());
                }
            });
            Ok(match client.call(operation) {
                Ok(outcome) => succeeded(outcome, cli.raw),
                Err(error) => failed(error),
            })
        }
    }
}

/// What the words ask for.
fn command(cli: &Cli) -> Result<Command, End> {
    let Some((name, args)) = cli.words.split_first() else {
        return Err(End::usage("invalid operation!"));
    };
    if let Some(name @ ("members" | "transfer")) = name.to_str() {
        return operator_command(cli, name, args);
    }
    let (name, wanted) = match name.to_str() {
        Some(name @ ("put" | "update")) => (name, 2),
        Some(name @ ("get" | "remove" | "delete")) => (name, 1),
        Some("status") => ("status", 0),
        _ => return Err(End::usage("invalid operation!")),
    };
    if args.len() != wanted
        || cli.learner
        || (cli.raw && name != "get")
        || (cli.json && name != "status")
    {
        return Err(End::usage("invalid parameter!"));
    }
    let key = || Bytes::copy_from_slice(args[0].as_bytes());
    Ok(Command::Operate(match name {
        "put" => Operation::Put {
            key: key(),
            value: value(&args[1])?,
        },
        "update" => Operation::Update {
            key: key(),
            value: value(&args[1])?,
        },
        "get" => Operation::Get { key: key() },
        "status" => return Ok(Command::Status),
        _ => Operation::Remove { key: key() },
    }))
}

/// What an operator asks for.
fn operator_command(cli: &Cli, name: &str, args: &[OsString]) -> Result<Command, End> {
    let wrong = || End::usage("invalid parameter!");
    let words: Option<Vec<&str>> = args.iter().map(|word| word.to_str()).collect();
    let words = words.ok_or_else(wrong)?;
    let list = name == "members" && words.is_empty();
    if cli.raw || cli.no_redirect || (cli.json && !list) {
        return Err(wrong());
    }
    match (name, &words[..]) {
        ("members", []) if !cli.learner => Ok(Command::Members),
        ("members", words) => members::goal(words, cli.learner)
            .map(Command::Pursue)
            .ok_or_else(wrong),
        (_, [id]) if !cli.learner => id
            .parse()
            .map(|id| Command::Pursue(Goal::Lead(id)))
            .map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// The value itself, or stdin up to what a value may have and one byte more.
fn value(word: &OsStr) -> Result<Bytes, End> {
    if word != "-" {
        return Ok(Bytes::copy_from_slice(word.as_bytes()));
    }
    let mut bytes = Vec::new();
    io::stdin()
        .lock()
        .take(VALUE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| End::usage(format!("cannot read the value from stdin: {e}")))?;
    Ok(bytes.into())
}

fn succeeded(outcome: Outcome, raw: bool) -> End {
    match outcome {
        Outcome::Value(value) if raw => End::Result(value.to_vec(), 0),
        Outcome::Value(value) => End::line([b"success: ", &value[..]].concat(), 0),
        // With --raw stdout is for the value alone.
        Outcome::NotFound if raw => End::Error("key not found".into(), REFUSED),
        Outcome::NotFound => End::line("key not found", REFUSED),
        Outcome::Done | Outcome::Session(_) => End::line("success", 0),
    }
}

fn failed(error: ClientError) -> End {
    let internal = |reason: &str| {
        let separator = if reason.is_empty() { "" } else { ": " };
        let text = format!("internal error, operation failed{separator}{reason}");
        End::line(text, REFUSED)
    };
    match error {
        ClientError::Redirected { leader } => End::Result(redirected(leader).into_bytes(), REFUSED),
        ClientError::BadRequest { reason } => End::line(format!("bad request: {reason}"), REFUSED),
        ClientError::NoSpace { reason } | ClientError::Refused { reason, .. } => internal(&reason),
        ClientError::KeyExists | ClientError::SessionExpired { .. } => internal(&error.to_string()),
        ClientError::BadAddress { .. } | ClientError::NothingToResolve => {
            End::usage(error.to_string())
        }
        ClientError::Unreachable { .. }
        | ClientError::Timeout { .. }
        | ClientError::OutcomeUnknown { .. } => End::Error(error.to_string(), NOT_REACHED),
    }
}

fn redirected(leader: SocketAddr) -> String {
    format!("not leader, redirected to: {leader}\n")
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|&secs| secs > 0.0 && secs <= TIMEOUT_SECS_MAX)
        .map(Duration::from_secs_f64)
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| format!("not a number of seconds up to {TIMEOUT_SECS_MAX}"))
}
