//! `raft_client`: one operation on the store, a scan, or the status of its nodes.
//!
//! Results go to stdout in the words of the original, everything else to stderr.
//! Exit codes: 0 done, 1 refused by the store, 2 wrong usage, 3 cluster not
//! reachable, timed out, or the result could not be printed.

#[path = "raft_client/backup.rs"]
mod backup;
#[path = "raft_client/batch.rs"]
mod batch;
#[path = "raft_client/draft.rs"]
mod draft;
#[path = "raft_client/members.rs"]
mod members;
#[path = "raft_client/scan.rs"]
mod scan;
#[path = "raft_client/status.rs"]
mod status;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use clap::error::ErrorKind;
use raftkv::client::backup::BackupError;
use raftkv::client::protocol::Operation;
use raftkv::client::{
    Client, ClientError, ClientOptions, Goal, OperatorError, Outcome, Range, WriteOp, pursue,
    resolve,
};
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
    override_usage = "raft_client [OPTIONS] put K V | update K V | get [--raw] [--follower] K | remove K |\n       \
                      cas K EXPECTED NEW | cas --absent K NEW | cas --remove K EXPECTED |\n       \
                      batch [OPERATION...] | scan [PREFIX] [--from K] [--until K] [--limit N] [--json | --raw | --batch] |\n       \
                      status [--json] | transfer N | members [--json] |\n       \
                      members add [--learner] [--force] N PEER CLIENT | members promote|demote|remove N |\n       \
                      members replace [--force] OLD N PEER CLIENT |\n       \
                      backup [--force] FILE | backup --verify FILE | restore [--force] FILE",
    after_help = "A value of `-` is read from stdin. Write `--` before a key or value that begins with `--`.\n\
                  cas sets a key that holds EXPECTED to NEW; --absent: one that does not exist; --remove: removes it.\n\
                  batch carries out all operations at one moment, or none: put K V, update K V, remove K,\n  \
                    cas K EXPECTED NEW, cas-absent K NEW, cas-remove K EXPECTED, no key twice. Without any it reads\n  \
                    them from stdin, one a line: words between blanks, \"quoted\" or with \\n \\t \\xNN escapes.\n\
                  scan prints a line an entry, KEY, tab, VALUE, in the order of the keys; --batch: lines that batch\n  \
                    reads, 128 at a time. Up to 4096 entries or 1 MiB\n  \
                    are of one moment; what follows is of a later one.\n\
                  backup writes all that is acknowledged when it begins into FILE, from the first node that answers;\n  \
                    FILE is - for stdout; --verify reads one to its end. restore writes its keys into a cluster that has none. For both\n  \
                    --timeout is for how long there may be no progress.\n\
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
    /// Every command ends within this [default: 5; 300 where a new member has to catch up; 60 for backup
    /// and restore]
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Do not go where a node says that the leader is
    #[arg(long)]
    no_redirect: bool,
    /// With get: the value's bytes and nothing else. With scan: keys and values as they are, each on a line
    #[arg(long)]
    raw: bool,
    /// With status, members and scan: JSON, for programs; keys and values that are no text are
    /// `key_hex` and `value_hex`
    #[arg(long, conflicts_with = "raw")]
    json: bool,
    /// With members add: without a vote
    #[arg(long)]
    learner: bool,
    /// With get and scan: the node that is asked answers itself, also where it does not lead. It asks the
    /// leader from where on it may, so what it says is as recent
    #[arg(long)]
    follower: bool,
    /// With backup: replace FILE. With restore: write into a cluster that holds keys. With members
    /// add and replace: do not check that the node answers at its addresses
    #[arg(long)]
    force: bool,
    /// With backup: read FILE, and say whether it is one
    #[arg(long, conflicts_with = "force")]
    verify: bool,
    /// With cas: the key must not exist
    #[arg(long)]
    absent: bool,
    /// With cas: removes the key
    #[arg(long, conflicts_with = "absent")]
    remove: bool,
    /// With scan: a line an entry that `batch` reads
    #[arg(long, conflicts_with_all = ["raw", "json"])]
    batch: bool,
    /// With scan: the first key
    #[arg(long, value_name = "K")]
    from: Option<OsString>,
    /// With scan: the key before which it ends
    #[arg(long, value_name = "K")]
    until: Option<OsString>,
    /// With scan: so many entries at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
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

    /// The same, where stdout may be read by a program.
    fn into_stderr(self) -> End {
        match self {
            End::Result(line, code) => {
                let line = String::from_utf8_lossy(&line);
                End::Error(line.trim_end().to_owned(), code)
            }
            end => end,
        }
    }

    fn usage(text: impl Into<String>) -> End {
        End::Error(text.into(), WRONG_USAGE)
    }
}

enum Command {
    Operate(Operation),
    Scan(scan::Scan),
    Status,
    Members,
    Pursue(Goal),
    Backup(backup::Backup),
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
        Command::Backup(_) => backup::PATIENCE,
        _ => TIMEOUT,
    });
    let options = ClientOptions {
        timeout,
        follow_redirects: !cli.no_redirect,
        // One write, and what is not known then is never asked again.
        explicit_sessions: false,
        follower_reads: cli.follower,
    };
    let addrs = if cli.addr.is_empty() {
        let members = cluster.members().iter();
        members.map(|member| member.client).collect()
    } else {
        resolved(&cli.addr)?
    };
    let mut client = Client::at(addrs, options).map_err(|e| End::usage(e.to_string()))?;

    match command {
        Command::Status => {
            let first = cli.addr.is_empty().then(|| cluster.members());
            let rows = status::ask(client.addrs(), first, timeout);
            let problem = status::no_leader(&rows);
            let code = if problem.is_some() { NOT_REACHED } else { 0 };
            if cli.json {
                if let Some(problem) = problem {
                    // Stdout is for the JSON alone; the exit code remains in any case.
                    let _ = writeln!(io::stderr(), "{problem}");
                }
                return Ok(End::line(status::json(&rows), code));
            }
            let problem = problem.map_or(String::new(), |problem| problem + "\n");
            Ok(End::line(problem + &status::table(&rows), code))
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
                    tell_redirect(leader);
                }
            });
            Ok(match client.call(operation) {
                Ok(outcome) => succeeded(outcome, cli.raw),
                Err(error) if cli.raw => failed(error).into_stderr(),
                Err(error) => failed(error),
            })
        }
        Command::Scan(scan) => Ok(run_scan(scan, &mut client)),
        Command::Backup(backup) => match backup.run(client.addrs(), timeout) {
            Ok(line) if backup.is_to_stdout() => Ok(End::Error(line, 0)),
            Ok(line) => Ok(End::line(line, 0)),
            Err(error) if backup.is_to_stdout() => Err(no_backup(error).into_stderr()),
            Err(error) => Err(no_backup(error)),
        },
    }
}

/// The addresses of `--addr`. Some that do not resolve are a warning, all of them an error.
fn resolved(names: &[String]) -> Result<Vec<SocketAddr>, End> {
    let (addrs, mut bad) = resolve(names);
    if addrs.is_empty() && !bad.is_empty() {
        return Err(End::usage(bad.swap_remove(0).to_string()));
    }
    for error in bad {
        // The result still goes to stdout.
        let _ = writeln!(io::stderr(), "warning: {error}; asking the other addresses");
    }
    Ok(addrs)
}

fn no_backup(error: BackupError) -> End {
    match error {
        BackupError::Refused(_) | BackupError::Damaged(_) => {
            End::line(format!("refused: {error}"), REFUSED)
        }
        BackupError::NotReached(_) | BackupError::File(_) => {
            End::Error(error.to_string(), NOT_REACHED)
        }
        BackupError::Write(error) => failed(error),
    }
}

fn run_scan(scan: scan::Scan, client: &mut Client) -> End {
    let is_json = scan.form == scan::Form::Json;
    match scan.run(client, print) {
        Ok(Some(next)) if !is_json => {
            let next = scan::printable(&next);
            End::Error(format!("there is more, from {next} on"), 0)
        }
        Ok(_) => End::Result(Vec::new(), 0),
        Err(scan::Stopped::Output(e)) => {
            End::Error(format!("cannot print the result: {e}"), NOT_REACHED)
        }
        // With the entries.
        Err(scan::Stopped::Store(error)) => failed(error).into_stderr(),
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
    if let Some(name @ ("backup" | "restore")) = name.to_str() {
        return backup_command(cli, name, args);
    }
    let (name, wanted) = match name.to_str() {
        Some(name @ ("put" | "update")) => (name, 2..=2),
        Some(name @ ("get" | "remove" | "delete")) => (name, 1..=1),
        Some("cas") if cli.absent || cli.remove => ("cas", 2..=2),
        Some("cas") => ("cas", 3..=3),
        Some("batch") => ("batch", 0..=usize::MAX),
        Some("scan") => ("scan", 0..=1),
        Some("status") => ("status", 0..=0),
        _ => return Err(End::usage("invalid operation!")),
    };
    let is_narrowed = cli.from.is_some() || cli.until.is_some() || cli.limit.is_some();
    if !wanted.contains(&args.len())
        || cli.learner
        || cli.force
        || cli.verify
        || (cli.follower && !matches!(name, "get" | "scan"))
        || (cli.raw && !matches!(name, "get" | "scan"))
        || (cli.json && !matches!(name, "status" | "scan"))
        || ((cli.absent || cli.remove) && name != "cas")
        || ((is_narrowed || cli.batch) && name != "scan")
    {
        return Err(End::usage("invalid parameter!"));
    }
    let word = |at: usize| Bytes::copy_from_slice(args[at].as_bytes());
    Ok(Command::Operate(match name {
        "put" => Operation::Put {
            key: word(0),
            value: value(&args[1])?,
        },
        "update" => Operation::Update {
            key: word(0),
            value: value(&args[1])?,
        },
        "get" => Operation::Get { key: word(0) },
        "cas" => Operation::CompareAndSet {
            key: word(0),
            expected: (!cli.absent).then(|| word(1)),
            new: match args {
                [.., last] if !cli.remove => Some(value(last)?),
                _ => None,
            },
        },
        "batch" => Operation::Batch(batch(args)?),
        "scan" => return Ok(Command::Scan(scan(cli, args))),
        "status" => return Ok(Command::Status),
        _ => Operation::Remove { key: word(0) },
    }))
}

/// What an operator asks for.
fn operator_command(cli: &Cli, name: &str, args: &[OsString]) -> Result<Command, End> {
    let wrong = || End::usage("invalid parameter!");
    let words: Option<Vec<&str>> = args.iter().map(|word| word.to_str()).collect();
    let words = words.ok_or_else(wrong)?;
    let list = name == "members" && words.is_empty();
    if cli.verify || cli.raw || cli.batch || cli.follower || cli.no_redirect || (cli.json && !list)
    {
        return Err(wrong());
    }
    let is_plain = !cli.learner && !cli.force;
    match (name, &words[..]) {
        ("members", []) if is_plain => Ok(Command::Members),
        ("members", words) => members::goal(words, cli.learner, cli.force)
            .map(Command::Pursue)
            .ok_or_else(wrong),
        (_, [id]) if is_plain => id
            .parse()
            .map(|id| Command::Pursue(Goal::Lead(id)))
            .map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// What is to be done with the file of a backup.
fn backup_command(cli: &Cli, name: &str, args: &[OsString]) -> Result<Command, End> {
    let is_other = cli.raw
        || cli.json
        || cli.batch
        || cli.follower
        || cli.no_redirect
        || cli.learner
        || cli.absent
        || cli.remove
        || cli.from.is_some()
        || cli.until.is_some()
        || cli.limit.is_some();
    let task = match (name, cli.verify) {
        ("backup", true) => backup::Task::Verify,
        ("backup", false) => backup::Task::Fetch { force: cli.force },
        (_, false) => backup::Task::Restore { force: cli.force },
        (_, true) => return Err(End::usage("invalid parameter!")),
    };
    match args {
        [file] if !is_other => Ok(Command::Backup(backup::Backup {
            task,
            file: file.into(),
        })),
        _ => Err(End::usage("invalid parameter!")),
    }
}

fn batch(args: &[OsString]) -> Result<Vec<WriteOp>, End> {
    let operations = if args.is_empty() {
        batch::read(io::stdin().lock())
    } else {
        let word = |word: &OsString| Bytes::copy_from_slice(word.as_bytes());
        batch::parse(args.iter().map(word).collect())
    };
    operations.map_err(End::usage)
}

fn scan(cli: &Cli, args: &[OsString]) -> scan::Scan {
    let bytes = |word: Option<&OsString>| {
        word.map_or(Bytes::new(), |word| Bytes::copy_from_slice(word.as_bytes()))
    };
    scan::Scan {
        range: Range {
            from: bytes(cli.from.as_ref()),
            until: bytes(cli.until.as_ref()),
            prefix: bytes(args.first()),
            ..Range::default()
        },
        limit: cli.limit,
        form: match (cli.raw, cli.json) {
            (true, _) => scan::Form::Raw,
            (_, true) => scan::Form::Json,
            _ if cli.batch => scan::Form::Batch,
            _ => scan::Form::Lines,
        },
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
        Outcome::Done | Outcome::Session(_) | Outcome::Page(_) => End::line("success", 0),
    }
}

fn failed(error: ClientError) -> End {
    let internal = |reason: &str| {
        let separator = if reason.is_empty() { "" } else { ": " };
        let text = format!("internal error, operation failed{separator}{reason}");
        End::line(text, REFUSED)
    };
    match error {
        ClientError::Redirected { .. } if io::stdout().is_terminal() => {
            End::line(error.to_string(), REFUSED)
        }
        ClientError::Redirected { .. } => End::Error(error.to_string(), REFUSED),
        ClientError::BadRequest { reason } => End::line(format!("bad request: {reason}"), REFUSED),
        ClientError::NoSpace { reason } | ClientError::Refused { reason, .. } => internal(&reason),
        ClientError::KeyExists
        | ClientError::Mismatch
        | ClientError::BatchFailed { .. }
        | ClientError::SessionExpired { .. } => internal(&error.to_string()),
        ClientError::BadAddress { .. } | ClientError::NothingToResolve => {
            End::usage(error.to_string())
        }
        ClientError::Unreachable { .. }
        | ClientError::Timeout { .. }
        | ClientError::OutcomeUnknown { .. } => End::Error(error.to_string(), NOT_REACHED),
    }
}

/// Prints the line of the original: to stdout if that is a terminal, else to stderr, so that
/// what a program reads of stdout is the result alone.
fn tell_redirect(leader: SocketAddr) {
    let line = format!("{}\n", ClientError::Redirected { leader });
    // A result that cannot be printed either is told with an exit code.
    let _ = if io::stdout().is_terminal() {
        print(line.as_bytes())
    } else {
        io::stderr().write_all(line.as_bytes())
    };
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|&secs| secs > 0.0 && secs <= TIMEOUT_SECS_MAX)
        .map(Duration::from_secs_f64)
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| format!("not a number of seconds up to {TIMEOUT_SECS_MAX}"))
}
