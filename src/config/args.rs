//! The command line of `raft_example`.
//!
//! Misuse of the one argument prints what the original prints, with its exit code;
//! all else is clap's. The command line has the last word over the cluster file.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::{Cluster, Config, Founding, Member, Tuning, limit_ms};
use crate::types::NodeId;

/// The original's `return -1`.
const EXIT_ORIGINAL: i32 = 255;
/// Wrong usage otherwise.
const EXIT_USAGE: i32 = 2;

/// One node of the replicated key-value store.
#[derive(Parser)]
#[command(
    name = "raft_example",
    version,
    about,
    long_about = None,
    override_usage = "raft_example N [OPTIONS]"
)]
struct Cli {
    /// Which node this is: 0 to 6, or an id in the cluster file
    #[arg(value_name = "N", allow_negative_numbers = true)]
    node: Vec<String>,

    /// TOML file with one [[node]] table a member (id, peer, client)
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// This node is not one of the first members: it listens at these addresses, empty, until
    /// `raft_client members add` makes it one
    #[arg(long, value_name = "PEER,CLIENT", value_parser = addresses)]
    join: Option<(SocketAddr, SocketAddr)>,
    /// Where raftnode_N/ is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_dir: PathBuf,
    /// If this node's data is damaged, move it aside (kept, in raftnode_N/aside-K/) and catch up
    /// from the other nodes; no vote until then. Data that is intact is used as it is
    #[arg(long)]
    rejoin: bool,
    /// Found the cluster in a new data directory, and exit: for a cluster of one, or one whose
    /// first members do not all start at once. Once in the life of a cluster
    #[arg(long, requires = "cluster", conflicts_with_all = ["join", "rejoin"])]
    found: bool,
    /// Reach the other nodes at the addresses in the cluster file, whatever the log says: after all
    /// addresses have changed. Kept in the data directory until the log has others
    #[arg(long, requires = "cluster")]
    addresses_from_file: bool,
    /// Event loops [default: cores - 1]
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
    /// Keep each event loop and the raft thread on a core of its own, in turn over those allowed
    #[arg(long)]
    pin_cores: bool,

    #[command(flatten)]
    log: LogArgs,

    /// Snapshot when the log since the last one exceeds this and that one's size [default: 16 MiB]
    #[arg(long, value_name = "N")]
    snapshot_log_bytes: Option<u64>,
    /// Log that stays behind a snapshot [default: 4 MiB]
    #[arg(long, value_name = "N")]
    snapshot_tail_bytes: Option<u64>,
    /// Log kept at most behind a snapshot that is being sent [default: 64 MiB]
    #[arg(long, value_name = "N")]
    snapshot_hold_bytes: Option<u64>,
    /// Bytes a second that are written of a snapshot, more under much load; 0 for no limit [default: 8 MiB]
    #[arg(long, value_name = "N")]
    snapshot_write_bytes_per_sec: Option<u64>,
    /// Bytes a second that are sent of snapshots, 0 for no limit [default: 64 MiB]
    #[arg(long, value_name = "N")]
    snapshot_send_bytes_per_sec: Option<u64>,
    /// Memory in bytes above which writes that grow the store are refused, 0 for no limit [default: three
    /// quarters of the machine's or its control group's, shared by the nodes with one address]
    #[arg(long, value_name = "N")]
    memory_limit: Option<u64>,
    /// A follower campaigns after a random time of silence in this range [default: 150-300]
    #[arg(long, value_name = "MIN-MAX", value_parser = range_ms)]
    election_timeout_ms: Option<(Duration, Duration)>,
    /// How often a leader makes itself heard [default: 50]
    #[arg(long, value_name = "N")]
    heartbeat_ms: Option<u64>,
    /// A disk without progress for so long costs a leader its leadership [default: 2000]
    #[arg(long, value_name = "N")]
    disk_patience_ms: Option<u64>,
    /// A disk without progress for so long ends the process, 0 for never [default: 30000]
    #[arg(long, value_name = "N")]
    disk_give_up_ms: Option<u64>,
    /// Answer reads by a leader's lease; the same on all nodes
    #[arg(long)]
    read_lease: bool,
    /// Size of a log segment [default: 16 MiB]
    #[arg(long, value_name = "N")]
    segment_bytes: Option<u64>,
}

const NOBODY_TO_REJOIN: &str = "--rejoin: the cluster has no other first member from which this node \
     could catch up; restore its data from a copy, or if the cluster has grown since then, replace the node: \
     `raft_client members replace`";

/// What the command line says about logging, as text: [`crate::logging`] knows the
/// words.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct LogArgs {
    /// Levels: a default and exceptions, as in `info,Raft=debug`
    #[arg(long = "log-level", value_name = "LEVEL", default_value = "info")]
    pub levels: String,
    /// File with levels in the same words, read at start and again on SIGHUP
    #[arg(long = "log-level-file", value_name = "FILE")]
    pub levels_file: Option<PathBuf>,
    /// Log to this file instead of stdout and stderr
    #[arg(long = "log-file", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Log to stdout and stderr as well as to the file
    #[arg(long = "log-console", requires = "file")]
    pub console: bool,
    /// What a line is made of, see [`crate::logging::Pattern`]
    #[arg(
        long = "log-pattern",
        value_name = "PATTERN",
        help = "What a line is made of: %n name, %t ctime, %T ISO 8601, %l level, %L LEVEL, \
                %v message, %P thread, %p pid, %% percent [default: \"[%n][%t][%l] %v\"]"
    )]
    pub pattern: Option<String>,
    /// When the file is rotated and how many old ones stay: `size=10M,age=day,keep=7`. Lines then go to
    /// NAME_rCURRENT.EXT; closed files are NAME_r00000.EXT, NAME_r00001.EXT, …
    #[arg(long = "log-rotate", value_name = "RULES", requires = "file")]
    pub rotate: Option<String>,
    /// Write each line before going on, instead of leaving it to a thread
    #[arg(long = "log-sync")]
    pub sync: bool,
}

/// What `raft_example` was asked to do, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerArgs {
    /// Which node this is, and where it listens: one of `cluster`, unless it joins later.
    pub member: Member,
    /// The first members.
    pub cluster: Cluster,
    /// Cluster file and command line together.
    pub tuning: Tuning,
    /// Where `raftnode_N/` goes.
    pub data_dir: PathBuf,
    /// Whether a damaged directory makes room for a new one.
    pub rejoin: bool,
    /// When a new directory founds the cluster by itself.
    pub founding: Founding,
    /// Whether to found the cluster now, and exit.
    pub found: bool,
    /// Whether the cluster file's addresses count, not those in the log.
    pub addresses_from_file: bool,
    /// For [`crate::logging`].
    pub log: LogArgs,
}

/// The program ends before it has begun: wrong usage, or `--help` and `--version`.
#[derive(Debug, PartialEq, Eq)]
pub struct ArgsExit {
    /// What to print, without the newline at its end.
    pub message: String,
    /// The exit code: 0 goes with stdout, all others with stderr.
    pub code: i32,
}

impl ArgsExit {
    /// Wrong usage: exit code 2.
    #[must_use]
    pub fn usage(message: impl fmt::Display) -> ArgsExit {
        ArgsExit {
            message: message.to_string(),
            code: EXIT_USAGE,
        }
    }

    fn original(message: &str) -> ArgsExit {
        ArgsExit {
            message: message.into(),
            code: EXIT_ORIGINAL,
        }
    }

    /// Prints the message where it belongs and ends the process.
    pub fn exit(self) -> ! {
        use std::io::Write as _;
        // Whom should a failure to print be told? The exit code remains.
        let _ = if self.code == 0 {
            writeln!(std::io::stdout(), "{}", self.message)
        } else {
            writeln!(std::io::stderr(), "{}", self.message)
        };
        std::process::exit(self.code)
    }
}

impl ServerArgs {
    /// Understands a command line, the program's name first, and reads the cluster
    /// file that it names.
    ///
    /// # Errors
    ///
    /// What to print and how to exit: as the original (`param num error`, `invalid
    /// node id`, 255) where the one argument is wrong, else 2; 0 for `--help`.
    pub fn parse_from<T>(args: impl IntoIterator<Item = T>) -> Result<ServerArgs, ArgsExit>
    where
        T: Into<OsString> + Clone,
    {
        let cli = Cli::try_parse_from(args).map_err(|e| {
            let text = e.render().to_string();
            match e.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ArgsExit {
                    message: text.trim_end().into(),
                    code: 0,
                },
                _ => ArgsExit::usage(one_line(&text)),
            }
        })?;
        let [node] = cli.node.as_slice() else {
            return Err(ArgsExit::original("param num error"));
        };
        let config = match &cli.cluster {
            Some(path) => Config::read(path).map_err(ArgsExit::usage)?,
            None => Config::default(),
        };
        let id = node_id(node).ok_or_else(|| ArgsExit::original("invalid node id"))?;
        let member = match cli.join {
            Some(join) => joiner(&config.cluster, id, join)?,
            None => *config
                .cluster
                .member(id)
                .ok_or_else(|| ArgsExit::original("invalid node id"))?,
        };
        if cli.rejoin && config.cluster.members().iter().all(|other| other.id == id) {
            return Err(ArgsExit::usage(NOBODY_TO_REJOIN));
        }
        let founding = match (&cli.cluster, cli.join) {
            (None, None) => Founding::Majority,
            (Some(_), None) => Founding::AllFirstMembers,
            (_, Some(_)) => Founding::Never,
        };
        let tuning = cli.tune(config.tuning);
        tuning.check().map_err(ArgsExit::usage)?;
        Ok(ServerArgs {
            member,
            cluster: config.cluster,
            tuning,
            data_dir: cli.data_dir,
            rejoin: cli.rejoin,
            founding,
            found: cli.found,
            addresses_from_file: cli.addresses_from_file,
            log: cli.log,
        })
    }
}

impl Cli {
    /// What the command line gives replaces what the file or the default says.
    fn tune(&self, mut tuning: Tuning) -> Tuning {
        fn set<T: Copy>(to: &mut T, given: Option<T>) {
            *to = given.unwrap_or(*to);
        }
        set(&mut tuning.reactors, self.reactors);
        tuning.pin_cores |= self.pin_cores;
        tuning.read_lease |= self.read_lease;
        let ms = |given: Option<u64>| given.map(Duration::from_millis);
        set(&mut tuning.disk_patience, ms(self.disk_patience_ms));
        if let Some(limit) = self.disk_give_up_ms {
            tuning.disk_give_up = limit_ms(limit);
        }
        set(&mut tuning.snapshot_log_bytes, self.snapshot_log_bytes);
        set(&mut tuning.snapshot_tail_bytes, self.snapshot_tail_bytes);
        set(&mut tuning.snapshot_hold_bytes, self.snapshot_hold_bytes);
        set(
            &mut tuning.snapshot_write_bytes_per_sec,
            self.snapshot_write_bytes_per_sec,
        );
        set(
            &mut tuning.snapshot_send_bytes_per_sec,
            self.snapshot_send_bytes_per_sec,
        );
        set(&mut tuning.segment_bytes, self.segment_bytes);
        tuning.memory_limit = self.memory_limit.or(tuning.memory_limit);
        set(&mut tuning.heartbeat, ms(self.heartbeat_ms));
        if let Some((min, max)) = self.election_timeout_ms {
            (tuning.election_timeout_min, tuning.election_timeout_max) = (min, max);
        }
        tuning
    }
}

/// A node that is to be made a member later.
fn joiner(
    cluster: &Cluster,
    id: NodeId,
    (peer, client): (SocketAddr, SocketAddr),
) -> Result<Member, ArgsExit> {
    let member = Member {
        id,
        peer,
        client,
        priority: 0,
    };
    let fits = cluster.check_joiner(&member);
    fits.map_err(|reason| ArgsExit::usage(format!("--join: {reason}; try --help")))?;
    Ok(member)
}

/// What is wrong, without the usage behind it: one line in a log of many starts.
fn one_line(text: &str) -> String {
    let what = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = what.split_whitespace().collect();
    format!("{}; try --help", words.join(" "))
}

/// Digits and nothing else: the original took `3x` for 3.
fn node_id(text: &str) -> Option<NodeId> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok().map(NodeId)).flatten()
}

fn addresses(text: &str) -> Result<(SocketAddr, SocketAddr), String> {
    text.split_once(',')
        .and_then(|(peer, client)| Some((peer.parse().ok()?, client.parse().ok()?)))
        .ok_or_else(|| "not two addresses like 10.0.0.8:4396,10.0.0.8:4397".into())
}

fn range_ms(text: &str) -> Result<(Duration, Duration), String> {
    text.split_once('-')
        .and_then(|(min, max)| Some((min.trim().parse().ok()?, max.trim().parse().ok()?)))
        .map(|(min, max)| (Duration::from_millis(min), Duration::from_millis(max)))
        .ok_or_else(|| "not a range like 150-300".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn parse(line: &[&str]) -> Result<ServerArgs, ArgsExit> {
        let line = line.iter().map(ToString::to_string);
        ServerArgs::parse_from(std::iter::once("raft_example".to_string()).chain(line))
    }

    #[test]
    fn a_bare_number_is_the_default_cluster_with_defaults() {
        let args = parse(&["6"]).unwrap();
        assert_eq!(args.member.id, NodeId(6));
        assert_eq!(args.cluster, Cluster::default());
        assert_eq!(args.tuning, Tuning::default());
        assert_eq!(args.data_dir, PathBuf::from("."));
        assert_eq!(args.log.levels, "info");
    }

    #[test]
    fn misuse_of_the_one_argument_ends_as_in_the_original() {
        for line in [&[][..], &["0", "1"], &["--data-dir", "x"]] {
            assert_eq!(parse(line), Err(ArgsExit::original("param num error")));
        }
        for id in [
            "-1",
            "7",
            "abc",
            "3x",
            "",
            " 3",
            "+3",
            "99999999999999999999",
        ] {
            assert_eq!(
                parse(&[id]),
                Err(ArgsExit::original("invalid node id")),
                "{id:?}"
            );
        }
    }

    #[test]
    fn the_only_member_has_nobody_to_rejoin() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let alone = "[[node]]\nid = 4\npeer = \"127.0.0.1:1001\"\nclient = \"127.0.0.1:1002\"\n";
        file.write_all(alone.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let exit = parse(&["4", "--rejoin", "--cluster", path]).unwrap_err();
        assert!(exit.code == 2 && exit.message.contains("no other first member"));
        assert!(!parse(&["4", "--cluster", path]).unwrap().rejoin);
        assert!(parse(&["4", "--rejoin"]).unwrap().rejoin);
    }

    #[test]
    fn wrong_options_exit_with_2_and_say_which() {
        for (line, part) in [
            (&["0", "--nonsense"][..], "--nonsense"),
            (&["0", "--heartbeat-ms", "x"], "--heartbeat-ms"),
            (&["0", "--heartbeat-ms", "0"], "heartbeat_ms"),
            (&["0", "--election-timeout-ms", "150"], "150-300"),
            (
                &["0", "--election-timeout-ms", "300-150"],
                "election_timeout_ms",
            ),
            (&["0", "--log-rotate", "age=day"], "--log-file"),
            (&["0", "--cluster", "/nonexistent"], "/nonexistent"),
        ] {
            let exit = parse(line).unwrap_err();
            assert_eq!(exit.code, 2);
            assert!(exit.message.contains(part), "{}", exit.message);
        }
    }

    #[test]
    fn a_node_that_joins_brings_its_addresses_and_is_no_first_member() {
        let args = parse(&["7", "--join", "127.0.0.1:4410,127.0.0.1:4411"]).unwrap();
        assert_eq!(args.member.id, NodeId(7));
        assert_eq!(args.member.client.port(), 4411);
        assert_eq!(args.cluster, Cluster::default());
        for (line, part) in [
            (["7", "--join", "127.0.0.1:4410"], "two addresses"),
            (["7", "--join", "127.0.0.1:4396,127.0.0.1:9"], "given twice"),
            (
                ["6", "--join", "127.0.0.1:4410,127.0.0.1:4411"],
                "id 6 is given twice",
            ),
        ] {
            let exit = parse(&line).unwrap_err();
            assert_eq!(exit.code, 2);
            assert!(exit.message.contains(part), "{}", exit.message);
        }
    }

    #[test]
    fn help_and_version_exit_with_0() {
        assert_eq!(parse(&["--help"]).unwrap_err().code, 0);
        let version = parse(&["--version"]).unwrap_err();
        assert_eq!(version.code, 0);
        assert!(version.message.contains(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_default() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(
            file,
            "[[node]]\nid = 40\npeer = '127.0.0.1:1'\nclient = '127.0.0.1:2'\n\
             [raft]\nelection_timeout_ms = [400, 500]\nheartbeat_ms = 20"
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let args = parse(&["--cluster", path, "40", "--heartbeat-ms", "30"]).unwrap();
        assert_eq!(args.member.id, NodeId(40));
        assert_eq!(args.tuning.heartbeat, Duration::from_millis(30));
        assert_eq!(args.tuning.election_timeout_min, Duration::from_millis(400));
        assert_eq!(args.tuning.segment_bytes, Tuning::default().segment_bytes);
        assert_eq!(
            parse(&["--cluster", path, "0"]),
            Err(ArgsExit::original("invalid node id"))
        );
    }
}
